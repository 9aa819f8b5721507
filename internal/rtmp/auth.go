package rtmp

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Authentication of publishers, as Flash Media Server's access manager requires it
// (authmod=adobe), and Limelight (authmod=llnw). There is no specification; OBS' librtmp
// and FFmpeg work this way. It takes three connections. The first is refused with the
// name of the method. The second names the user, and is refused with a challenge. The
// third answers the challenge. The client's parameters are a query at the end of app and
// tcUrl.
const (
	// AuthAdobe and AuthLLNW are the methods, as values of authmod.
	AuthAdobe = "adobe"
	AuthLLNW  = "llnw"

	needUser   = "code=403 need auth"
	needAnswer = "?reason=needauth"
)

// AuthRequired is a refusal of connect. Another connect with Auth in Options may be
// accepted.
type AuthRequired struct {
	Refused *StatusError
	// Auth is the query that the next connection must send. It contains the user's
	// name.
	Auth string
}

func (e *AuthRequired) Error() string { return e.Refused.Error() }

// Unwrap returns the refusal.
func (e *AuthRequired) Unwrap() error { return e.Refused }

// authorize returns the query that answers a refusal of connect. ok is false if the
// refusal has another cause, or if this connection has already sent that kind of answer.
func (o *Options) authorize(description, nonce string) (auth string, ok bool) {
	_, method, _ := strings.Cut(description, "authmod=")
	if end := strings.IndexAny(method, " ;]&"); end >= 0 {
		method = method[:end]
	}
	if o.User == "" || method != AuthAdobe && method != AuthLLNW {
		return "", false
	}
	auth = "authmod=" + method + "&user=" + escapeUser(o.User)
	if o.Auth == "" && strings.Contains(description, needUser) {
		return auth, true
	}
	_, params, found := strings.Cut(description, needAnswer)
	if !found || strings.Contains(o.Auth, "&response=") {
		return "", false
	}
	q := parseAuth(strings.TrimSpace(params))
	if method == AuthLLNW {
		return auth + "&nonce=" + q["nonce"] + "&cnonce=" + nonce + "&nc=" + llnwCount +
			"&response=" + llnwResponse(llnwURI(o.App), o.User, o.Password, q["nonce"], nonce, llnwCount), true
	}
	seed := q["opaque"]
	if seed == "" {
		seed = q["challenge"]
	}
	auth += "&challenge=" + nonce + "&response=" + adobeResponse(o.User, o.Password, q["salt"], seed, nonce)
	if q["opaque"] != "" {
		auth += "&opaque=" + q["opaque"]
	}
	return auth, true
}

// adobeResponse returns the response to a challenge. seed is the server's opaque, or its
// challenge if it sent no opaque.
func adobeResponse(user, password, salt, seed, nonce string) string {
	return base64MD5(base64MD5(user+salt+password) + seed + nonce)
}

func base64MD5(s string) string {
	sum := md5.Sum([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// llnwCount is nc. It stays 1, because each nonce is used for one response.
const llnwCount = "00000001"

// llnwResponse returns the response to a challenge. It is computed as HTTP's digest
// (RFC 2617, 3.2.2.1) with realm "live", method "publish" and qop "auth".
func llnwResponse(uri, user, password, nonce, cnonce, count string) string {
	return hexMD5(hexMD5(user+":live:"+password) + ":" + nonce + ":" + count + ":" + cnonce + ":auth:" +
		hexMD5("publish:/"+uri))
}

// llnwURI returns the app as it is hashed in a response: without its query, and with an
// instance.
func llnwURI(app string) string {
	app, _ = splitQuery(app)
	return withInstance(app)
}

func withInstance(app string) string {
	if strings.Contains(app, "/") {
		return app
	}
	return app + "/_definst_"
}

func hexMD5(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// newNonce returns the client's nonce, 4 random bytes in hexadecimal.
func newNonce() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// escapeUser percent-encodes the bytes that would end a value or the query. It leaves all
// others unchanged, because not every server decodes the name.
func escapeUser(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`%&=?#+/`, c) >= 0 {
			b.WriteByte('%')
			b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// parseAuth splits a query. It does not decode the values.
func parseAuth(query string) map[string]string {
	q := make(map[string]string)
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			q[k] = v
		}
	}
	return q
}

// withAuth appends authentication parameters to an app or tcUrl.
func withAuth(s, auth string) string {
	switch {
	case auth == "":
		return s
	case strings.Contains(s, "?"):
		return s + "&" + auth
	}
	return s + "?" + auth
}

// CutAuth cuts authentication parameters off the end of an app or tcUrl.
func CutAuth(s string) (rest, auth string) {
	for _, mark := range []string{"?authmod=", "&authmod="} {
		if at := strings.Index(s, mark); at >= 0 {
			return s[:at], s[at+1:]
		}
	}
	return s, ""
}

const (
	authCode   = "NetConnection.Connect.Rejected"
	authReject = "[ AccessManager.Reject ] : [ "
	// authLife is how long a challenge is valid.
	authLife = time.Minute
	// authNonce and authMAC are the sizes, in bytes, of a challenge's nonce and of its
	// authentication code. The nonce distinguishes challenges of the same moment; the
	// code proves that this Authenticator made the challenge.
	authNonce = 7
	authMAC   = 12
	// maxSpent is the number of answered challenges that are remembered.
	maxSpent = 1 << 14
)

// Authenticator is the server's side of the authentication. A challenge is valid for one
// correct response within authLife. Challenges without a correct response take no memory:
// each contains the proof that it is ours. Methods are safe for concurrent use.
type Authenticator struct {
	key      [sha256.Size]byte
	password func(user string) (string, bool)

	mu    sync.Mutex
	spent map[string]time.Time // challenges with a correct response: when each was made
	since time.Time            // challenges made until then are invalid
}

// NewAuthenticator returns an Authenticator. password returns a user's password, and
// false for an unknown user.
func NewAuthenticator(password func(user string) (string, bool)) *Authenticator {
	a := &Authenticator{password: password, spent: make(map[string]time.Time)}
	rand.Read(a.key[:])
	return a
}

var (
	// ErrAsked is wrapped by refusals that request the next step of the
	// authentication. It is not a failure: the client usually connects again.
	ErrAsked = errors.New("asked for user and password")
	// ErrWrong is wrapped by refusals of a wrong response.
	ErrWrong = errors.New("wrong user or password")
)

// authRefusal is a refusal whose status tells the client the next step. Its text is for
// the log: it is shorter, and does not contain the user.
type authRefusal struct {
	cause error
	st    *StatusError
}

func (e *authRefusal) Error() string   { return "connect refused: " + e.cause.Error() }
func (e *authRefusal) Unwrap() []error { return []error{e.cause, e.st} }

func refuseAuth(cause error, description string) error {
	return &authRefusal{cause, &StatusError{Command: "connect", Code: authCode, Description: authReject + description}}
}

// Check returns the user that auth authenticates. auth is the query that CutAuth has cut
// off app; method is AuthAdobe or AuthLLNW. The error wraps the *StatusError for the
// client, and does not reveal whether a user exists.
func (a *Authenticator) Check(method, app, auth string) (user string, err error) {
	q := parseAuth(auth)
	sent := q["user"]
	authmod := "authmod=" + method
	if q["authmod"] != method || sent == "" {
		return "", refuseAuth(ErrAsked, needUser+"; "+authmod+" ] : ")
	}
	user, err = url.PathUnescape(sent)
	if err != nil {
		user = sent
	}
	if q["response"] == "" {
		challenge := a.challenge(user, time.Now(), nil)
		params := "&salt=" + salt(challenge) + "&challenge=" + challenge + "&opaque=" + challenge
		if method == AuthLLNW {
			params = "&nonce=" + challenge
		}
		return "", refuseAuth(ErrAsked, authmod+" ] : "+needAnswer+"&user="+sent+params)
	}
	password, known := a.password(user)
	challenge := q["opaque"]
	if method == AuthLLNW {
		challenge = q["nonce"]
	}
	right := false
	if a.fresh(user, challenge) {
		// Some clients hash the name as it is encoded in the query.
		for _, name := range []string{user, sent} {
			if method == AuthLLNW {
				right = right || rightLLNW(q, app, name, password)
			} else {
				right = right || rightAdobe(q, name, password)
			}
		}
	}
	if !right || !known || !a.spend(challenge) {
		return "", refuseAuth(ErrWrong, authmod+" ] : ?reason=authfailed")
	}
	return user, nil
}

func rightAdobe(q map[string]string, user, password string) bool {
	response, err := url.PathUnescape(q["response"])
	opaque := q["opaque"]
	return err == nil && equal(response, adobeResponse(user, password, salt(opaque), opaque, q["challenge"]))
}

// rightLLNW also accepts a response that hashes the app with its query, as FFmpeg does.
func rightLLNW(q map[string]string, app, user, password string) bool {
	for _, uri := range []string{llnwURI(app), withInstance(app)} {
		if equal(q["response"], llnwResponse(uri, user, password, q["nonce"], q["cnonce"], q["nc"])) {
			return true
		}
	}
	return false
}

// challenge returns a challenge for a user: the time, the nonce, and a code that
// authenticates both. If nonce is nil, it is random.
func (a *Authenticator) challenge(user string, at time.Time, nonce []byte) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano()))
	if nonce == nil {
		nonce = make([]byte, authNonce)
		rand.Read(nonce)
	}
	b = append(b, nonce...)
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write(b)
	mac.Write([]byte(user))
	return base64.RawURLEncoding.EncodeToString(append(b, mac.Sum(nil)[:authMAC]...))
}

// fresh reports whether challenge was made by a for this user, at most authLife ago.
func (a *Authenticator) fresh(user, challenge string) bool {
	b, err := base64.RawURLEncoding.DecodeString(challenge)
	if err != nil || len(b) != 8+authNonce+authMAC {
		return false
	}
	at := made(b)
	age := time.Since(at)
	return equal(challenge, a.challenge(user, at, b[8:8+authNonce])) && age >= 0 && age <= authLife
}

func made(challenge []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(challenge)))
}

// spend records that a fresh challenge has got a correct response. It returns false if
// the challenge has had one before. If there are too many to remember, it invalidates all
// challenges made so far.
func (a *Authenticator) spend(challenge string) bool {
	b, _ := base64.RawURLEncoding.DecodeString(challenge)
	at := made(b)
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, spent := a.spent[challenge]; spent || !at.After(a.since) {
		return false
	}
	if len(a.spent) >= maxSpent {
		now := time.Now()
		maps.DeleteFunc(a.spent, func(_ string, at time.Time) bool { return now.Sub(at) > authLife })
		if len(a.spent) >= maxSpent {
			a.since = now
			clear(a.spent)
		}
	}
	a.spent[challenge] = at
	return true
}

// salt returns the salt of a challenge, which is a part of it: passwords are not stored
// as hashes, so the salt may differ each time.
func salt(challenge string) string { return challenge[:8] }

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
