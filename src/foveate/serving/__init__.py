"""The same answers over HTTP. Pictures come as bytes and nothing else: no address is fetched, no path of a request is opened."""
