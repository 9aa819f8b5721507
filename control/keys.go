package control

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/rtmp-forward/forward"
)

// keys are the tokens of operators, and the sessions that began with them. Tokens may
// change while requests are admitted.
type keys struct {
	tokens   atomic.Pointer[[]forward.Secret]
	sessions *sessions // nil: there are none
}

// set replaces the tokens. Sessions of those that are gone are no longer valid.
func (k *keys) set(tokens []forward.Secret) {
	tokens = slices.Clone(tokens)
	k.tokens.Store(&tokens)
}

func checkTokens(tokens []forward.Secret) error {
	if len(tokens) == 0 || slices.Contains(tokens, "") {
		return errors.New("forward: control handler without a token, or with an empty one")
	}
	return nil
}

// admit returns a *failure unless the request brings the credential of an operator.
func (k *keys) admit(w http.ResponseWriter, r *http.Request) error {
	if k.isOperator(r) {
		return nil
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	return &failure{"unauthorized", "A valid bearer token is needed."}
}

// isOperator reports whether a request has a token or, without one, a session.
func (k *keys) isOperator(r *http.Request) bool {
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return k.hasSession(r)
	}
	scheme, given, _ := strings.Cut(auth, " ")
	return k.isToken(strings.TrimSpace(given)) && strings.EqualFold(scheme, "Bearer")
}

// isToken reports whether a text is one of the tokens.
func (k *keys) isToken(given string) bool {
	ok := 0
	for _, t := range *k.tokens.Load() {
		ok |= constantTimeEqual(given, string(t))
	}
	return ok == 1
}

// constantTimeEqual is 1 if a and b are equal. Hashing makes their lengths equal, so
// that the time reveals neither content nor length.
func constantTimeEqual(a, b string) int {
	return constantTimeEqualHash(sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b)))
}

// constantTimeEqualHash is 1 if a and b are equal.
func constantTimeEqualHash(a, b [sha256.Size]byte) int {
	return subtle.ConstantTimeCompare(a[:], b[:])
}
