"""Predictions over HTTP.

Images come as bytes and nothing else: no URL is fetched, no path in a request is opened.
"""
