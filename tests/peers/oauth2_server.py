"""An OAuth 2.0 authorization server (Authlib) and the API of a partner that accepts its tokens.

Started by tests/it/peers.rs; prints the port it listens on. Tokens live for LIFETIME seconds (the first argument); the
partner forgets all of them when /forget is called, as a partner does that restarts.
"""

import sys
import threading
import time

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

LIFETIME = int(sys.argv[1])
SECRETS = {"gateway": "client secret/+&=1", "by-body": "another:secret", "letters": "only-letters"}
USERS = {"ada": "p&w of ada"}

tokens = {}
fetched = []
leads = []


class Client(ClientMixin):
    def __init__(self, name):
        self.name = name

    def get_client_id(self):
        return self.name

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return scope if scope == "leads.write" else ""

    def check_redirect_uri(self, redirect_uri):
        return False

    def check_client_secret(self, client_secret):
        return SECRETS[self.name] == client_secret

    def check_endpoint_auth_method(self, method, endpoint):
        return method == ("client_secret_post" if self.name == "by-body" else "client_secret_basic")

    def check_response_type(self, response_type):
        return False

    def check_grant_type(self, grant_type):
        return grant_type in ("client_credentials", "password")


class Token(TokenMixin):
    def __init__(self, value):
        self.value = value
        self.until = time.monotonic() + LIFETIME

    def check_client(self, client):
        return True

    def get_scope(self):
        return self.value.get("scope") or ""

    def get_expires_in(self):
        return LIFETIME

    def is_expired(self):
        return time.monotonic() >= self.until

    def is_revoked(self):
        return False

    def get_user(self):
        return None

    def get_client(self):
        return None


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]


class Password(grants.ResourceOwnerPasswordCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]

    def authenticate_user(self, username, password):
        return username if USERS.get(username) == password else None


class Known(BearerTokenValidator):
    def authenticate_token(self, token_string):
        return tokens.get(token_string)


def save_token(token, request):
    fetched.append(request.payload.grant_type)
    tokens[token["access_token"]] = Token(token)


app = Flask(__name__)
app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"client_credentials": LIFETIME, "password": LIFETIME}
server = AuthorizationServer(
    app, query_client=lambda name: Client(name) if name in SECRETS else None, save_token=save_token
)
server.register_grant(ClientCredentials)
server.register_grant(Password)
protect = ResourceProtector()
protect.register_token_validator(Known())


@app.post("/token")
def token():
    return server.create_token_response()


@app.post("/leads")
@protect("leads.write")
def take():
    leads.append(request.get_json()["email"])
    return jsonify(status="taken", number=len(leads))


@app.post("/forget")
def forget():
    tokens.clear()
    return jsonify()


@app.get("/seen")
def seen():
    return jsonify(fetched=fetched, leads=leads)


if __name__ == "__main__":
    listener = make_server("127.0.0.1", 0, app, threaded=True)
    print(listener.port, flush=True)
    # Whoever started this holds the other end: when it goes, so does this.
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    sys.stdin.read()
