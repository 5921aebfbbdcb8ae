"""`eagleeye tune`: how a model is served best on this machine, by load through a gateway, with a limit to p99."""
