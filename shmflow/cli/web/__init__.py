"""The live page of ``shmflow view --web``: what flows through topics, in a browser.

    guard.py      who may see it: the token, the Host header
    app.py        what is served: routes, streams of pictures
    facts.py      rates, rings and participants, sampled for all browsers at once
    ages.py       how old messages are when they can be seen
    newest.py     the newest message of a topic, copied once for all browsers
    readings.py   messages that are no pictures, as JSON
    serve.py      the socket, the server, its end
    page.*        what the browser runs: page.js asks, page.draw.js draws; nothing is from elsewhere

All of it reads topics as a monitor. Importing this package imports nothing.
"""
