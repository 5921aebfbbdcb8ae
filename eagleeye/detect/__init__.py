"""`eagleeye detect`: pictures and videos from files through a live gateway into result files.

    paths -> sources -> pictures -> client -> answers -> output

`inputs` finds the sources, `pictures` and `video` read them one by one, `run` asks the gateway and keeps count, and
`outputs` has one class a format. What an output holds already is told by `rows` and `journal`, so that an interrupted
run goes on where it stopped.
"""
