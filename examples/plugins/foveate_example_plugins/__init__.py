"""One small plug-in of each kind for Foveate: see the page "Plug-ins" of the documentation."""
