"""Reads the messages whose files are named, with Python's email package, and
prints what it understood as a JSON list. Any defect is an error."""

import email
import email.policy
import hashlib
import json
import sys

# raise_on_defect covers the parser; fields keep theirs for whoever asks.
POLICY = email.policy.strict


def people(message, field):
    found = []
    for header in message.get_all(field, []):
        found += [[a.display_name, a.addr_spec] for a in header.addresses]
    return found


def read(name):
    with open(name, "rb") as file:
        message = email.message_from_binary_file(file, policy=POLICY)
    defects = []
    for part in message.walk():
        defects += [repr(d) for d in part.defects]
        for field, value in part.items():
            defects += [f"{field}: {d!r}" for d in getattr(value, "defects", ())]
    text, html, attachments = "", "", []
    for part in message.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        disposition = part.get_content_disposition() or ""
        if disposition == "" and kind == "text/plain":
            text += part.get_content()
        elif disposition == "" and kind == "text/html":
            html += part.get_content()
        else:
            content = part.get_payload(decode=True)
            attachments.append({
                "filename": part.get_filename() or "",
                "type": kind,
                "content_id": part["content-id"] or "",
                "disposition": disposition,
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            })
    return {
        "defects": defects,
        "subject": message["subject"] or "",
        "from": people(message, "from"),
        "to": people(message, "to"),
        "cc": people(message, "cc"),
        "bcc": people(message, "bcc"),
        "reply_to": people(message, "reply-to"),
        "message_id": message["message-id"] or "",
        "text": text,
        "html": html,
        "attachments": attachments,
    }


json.dump([read(name) for name in sys.argv[1:]], sys.stdout)
