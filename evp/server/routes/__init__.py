"""The routes, a module for each subject; `evp.server.app` puts them together."""
