"""The server half of each transport, a file each; static/transports/ has the browser half."""
