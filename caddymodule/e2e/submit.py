"""Sends a message from a file with smtplib, as the JSON in the first argument says."""

import json
import smtplib
import ssl
import sys

wish = json.loads(sys.argv[1])
context = ssl.create_default_context(cafile=wish["ca"])
at = {"host": "localhost", "port": wish["port"], "local_hostname": wish["greeting"], "timeout": 60}
if wish["tls"] == "implicit":
    server = smtplib.SMTP_SSL(context=context, **at)
else:
    server = smtplib.SMTP(**at)
with server:
    if wish["tls"] == "starttls":
        server.starttls(context=context)
    server.ehlo_or_helo_if_needed()
    if wish["mechanism"]:
        server.user, server.password = wish["user"], wish["password"]
        server.auth(wish["mechanism"], {"PLAIN": server.auth_plain, "LOGIN": server.auth_login}[wish["mechanism"]])
    with open(wish["file"], "rb") as file:
        server.sendmail(wish["from"], [wish["to"]], file.read(), mail_options=["BODY=8BITMIME"])
