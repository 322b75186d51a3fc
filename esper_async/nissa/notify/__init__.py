"""Telling people: alerts go out over webhook, chat, pager and mail, and nothing is lost on the way.

`dispatch` groups what happened and decides who is told, `outbox` keeps each message on disk until
its channel took it or it is set aside as dead, `channels` and `mail` speak to the four kinds.
"""
