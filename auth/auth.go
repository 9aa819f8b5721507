// Package auth checks and signs the URLs of publishers and players: see Token.
package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// ErrToken is wrapped by the errors of Token. Their texts contain no secret, and of
// the request only the parameter's name.
var ErrToken = errors.New("auth: token refused")

// Token checks a parameter in the query of a publisher's or player's URL: either
// one of the Secrets itself (Check), or a signature made with one, valid for one
// stream and until a given time (Sign, Verify). It is a value and may be used
// concurrently. Use it in the hooks OnPublish and OnPlay.
//
// Values are compared in constant time. A parameter that comes twice, or in tcUrl
// with another value than in the query, is refused as ambiguous.
type Token struct {
	// Secrets are all valid, so that they can be rotated; the first one signs.
	// Empty ones are ignored. Without a secret everything is refused.
	Secrets []forward.Secret

	// Purpose, such as "publish" or "play", is signed too. A URL signed for one
	// is not valid for the other.
	Purpose string

	// Param is the name of the parameter for Check, "token" by default.
	Param string
}

// Format writes the number of secrets, for every verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Token with %d secrets", len(t.Secrets)) }

// MarshalText gives the same as Format.
func (t Token) MarshalText() ([]byte, error) { return fmt.Append(nil, t), nil }

// The parameters of a signed URL.
const (
	paramExpires = "expires" // in seconds since 1970
	paramSign    = "sign"    // HMAC-SHA256 in hex
)

// Check returns nil if the parameter named Param is one of the Secrets.
func (t Token) Check(req *forward.Request) error {
	name := t.Param
	if name == "" {
		name = "token"
	}
	given, err := onlyParam(req, name)
	if err != nil {
		return err
	}
	ok := 0
	for _, s := range t.Secrets {
		if s != "" {
			ok |= constantTimeEqual(given, string(s))
		}
	}
	if ok == 0 {
		return fmt.Errorf("%w: parameter %s is wrong", ErrToken, name)
	}
	return nil
}

// Sign returns the query, without "?", that makes a URL valid until expires for the
// stream of that name: "live/cam", or "//studio.example/live/cam" in a vhost, as
// forward.Request.Name. Signing fails without a secret, and for a text that cannot
// be a stream's name.
func (t Token) Sign(name string, expires time.Time) (query string, err error) {
	if len(t.Secrets) == 0 || t.Secrets[0] == "" {
		return "", errors.New("auth: sign: no secret")
	}
	vhost, path, ok := rtmp.SplitName(name)
	if !ok || !canBeStream(vhost, path) {
		return "", errors.New("auth: sign: not a stream's name: expected app/stream or //vhost/app/stream")
	}
	at := strconv.FormatInt(expires.Unix(), 10)
	return paramExpires + "=" + at + "&" + paramSign + "=" + t.signature(t.Secrets[0], rtmp.JoinName(vhost, path), at), nil
}

// canBeStream reports whether a stream can have the vhost, which is folded, and the path.
func canBeStream(vhost, path string) bool {
	return strings.Contains(path, "/") && !slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return rtmp.CheckName(s) != nil }) &&
		(vhost == "" || rtmp.CheckVhost(vhost) == nil)
}

// Verify returns nil if the request carries a signature for its stream that
// was made with any of the Secrets and has not expired.
func (t Token) Verify(req *forward.Request) error {
	at, err := onlyParam(req, paramExpires)
	if err != nil {
		return err
	}
	given, err := onlyParam(req, paramSign)
	if err != nil {
		return err
	}
	given = strings.ToLower(given)
	ok := 0
	for _, s := range t.Secrets {
		if s != "" {
			ok |= constantTimeEqual(given, t.signature(s, req.Name(), at))
		}
	}
	if ok == 0 {
		return fmt.Errorf("%w: parameter %s is wrong", ErrToken, paramSign)
	}
	expires, err := strconv.ParseInt(at, 10, 64)
	if err != nil || !time.Now().Before(time.Unix(expires, 0)) {
		return fmt.Errorf("%w: it has expired", ErrToken)
	}
	return nil
}

// signature covers the purpose, the stream and the time. The time comes last and
// contains no NUL: no two triples give the same text.
func (t Token) signature(s forward.Secret, name, at string) string {
	mac := hmac.New(sha256.New, []byte(s))
	fmt.Fprintf(mac, "%s\x00%s\x00%s", t.Purpose, name, at)
	return hex.EncodeToString(mac.Sum(nil))
}

// onlyParam is the value of a parameter that the request must have once.
func onlyParam(req *forward.Request, name string) (string, error) {
	values, err := endpoint.QueryValues(req.Param, name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	_, tcQuery, _ := strings.Cut(req.TcURL, "?")
	inTcURL, err := endpoint.QueryValues(tcQuery, name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	switch {
	case len(values) == 0:
		return "", fmt.Errorf("%w: no parameter %s", ErrToken, name)
	case len(values) > 1 || len(inTcURL) > 1 || len(inTcURL) == 1 && constantTimeEqual(inTcURL[0], values[0]) == 0:
		return "", fmt.Errorf("%w: parameter %s given twice", ErrToken, name)
	}
	return values[0], nil
}

// constantTimeEqual is 1 if a and b are equal. Hashing makes their lengths equal, so
// that the time reveals neither content nor length.
func constantTimeEqual(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
