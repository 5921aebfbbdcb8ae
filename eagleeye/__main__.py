"""`python -m eagleeye` is the command `eagleeye`."""

from eagleeye.cli import main

main(prog_name="eagleeye")
