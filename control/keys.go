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

// keys are the tokens of operators. They may change while requests are admitted.
type keys struct {
	tokens atomic.Pointer[[]forward.Secret]
}

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
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	ok := 0
	for _, t := range *k.tokens.Load() {
		ok |= constantTimeEqual(strings.TrimSpace(given), string(t))
	}
	if ok == 1 && strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	return &failure{"unauthorized", "A valid bearer token is needed."}
}

// constantTimeEqual is 1 if a and b are equal. Hashing makes their lengths equal, so
// that the time reveals neither content nor length.
func constantTimeEqual(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
