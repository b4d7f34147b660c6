"""A SOAP 1.1 and a SOAP 1.2 service (Spyne), which want a header block and a WS-Security UsernameToken.

Started by tests/it/peers.rs; prints the port it listens on. /11 and /12 are the two services; each checks its messages
against its own schema, and the token as the OASIS profile says: digests are computed here, a nonce serves once, and a
token older than five minutes is refused.
"""

import base64
import datetime
import hashlib
import sys
import threading

from spyne import Application, ComplexModel, Decimal, Fault, ServiceBase, Unicode, rpc
from spyne.protocol.soap import Soap11, Soap12
from spyne.server.wsgi import WsgiApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

WSSE = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}"
WSU = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}"
PROFILE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#"
BASE64 = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary"
NS = "urn:partner"
USERS = {"gateway": "p<&>w of ours"}
seen = set()


class Receipt(ComplexModel):
    __namespace__ = NS
    Status = Unicode
    Reference = Unicode
    Echo = Unicode


def only(parent, name):
    found = parent.findall(name) if parent is not None else []
    if len(found) != 1:
        raise Fault("Client.Security", "expected one %s" % name)
    return found[0]


def check_security(header):
    security = only(header, WSSE + "Security")
    token = only(security, WSSE + "UsernameToken")
    username = only(token, WSSE + "Username").text
    password = only(token, WSSE + "Password")
    known = USERS.get(username)
    kind = password.get("Type")
    if kind == PROFILE + "PasswordText":
        right = password.text == known
    elif kind == PROFILE + "PasswordDigest":
        nonce = only(token, WSSE + "Nonce")
        created = only(token, WSU + "Created").text
        if nonce.get("EncodingType") != BASE64:
            raise Fault("Client.Security", "the nonce has no encoding")
        if nonce.text in seen:
            raise Fault("Client.Security", "the nonce was used before")
        seen.add(nonce.text)
        age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(created)
        if abs(age) > datetime.timedelta(minutes=5):
            raise Fault("Client.Security", "the token is too old")
        digest = hashlib.sha1(base64.b64decode(nonce.text) + created.encode() + known.encode()).digest()
        right = base64.b64encode(digest).decode() == password.text
    else:
        raise Fault("Client.Security", "the password has no type")
    if not right:
        raise Fault("Client.Authentication", "wrong user name or password")
    stamp = security.find(WSU + "Timestamp")
    if stamp is not None:
        expires = datetime.datetime.fromisoformat(only(stamp, WSU + "Expires").text)
        if expires < datetime.datetime.now(datetime.timezone.utc):
            raise Fault("Client.Security", "the message has expired")


class Leads(ServiceBase):
    @rpc(Unicode(min_occurs=1), Unicode, Decimal(ge=0), _returns=Receipt)
    def SubmitLead(ctx, Email, Name, Bill):
        envelope = ctx.in_document
        header = envelope[0] if envelope[0].tag.endswith("}Header") else None
        check_security(header)
        campaign = only(header, "{%s}Campaign" % NS).text
        if Name == "fail":
            raise Fault("Server", "the database is away")
        if Name == "refuse":
            raise Fault("Client.Validation", "we do not want <%s>" % Email)
        return Receipt(Status="OK", Reference="%s-%s" % (campaign, Bill), Echo=Name)


def service(inward, outward):
    return WsgiApplication(Application([Leads], tns=NS, in_protocol=inward, out_protocol=outward))


def nothing(environ, start_response):
    start_response("404 Not Found", [])
    return []


if __name__ == "__main__":
    services = {
        "/11": service(Soap11(validator="lxml"), Soap11()),
        "/12": service(Soap12(validator="lxml"), Soap12()),
    }
    listener = make_server("127.0.0.1", 0, DispatcherMiddleware(nothing, services), threaded=True)
    print(listener.port, flush=True)
    # Whoever started this holds the other end: when it goes, so does this.
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    sys.stdin.read()
