"""`eagleeye model`: which versions of a model there are, are loaded and answer, in a repository and on a live fleet."""
