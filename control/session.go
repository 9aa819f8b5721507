package control

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// Limits of sessions.
const (
	maxSessions    = 64             // one more ends the oldest
	sessionTime    = 12 * time.Hour // from the login on
	maxLogin       = 4 << 10        // bytes of a login
	maxFailures    = 5              // logins of an address with a wrong token, within failureTime
	failureTime    = time.Minute
	maxFailureAddr = 1024 // addresses whose failures are counted
)

// sessions are those of operators who logged in with a token. They are in memory alone,
// so that they end with the process. The id of a session is never kept or compared as it
// is: only its hash is.
type sessions struct {
	mu     sync.Mutex
	all    []session // the oldest first
	failed map[netip.Prefix]*failures
}

type session struct {
	id, token [sha256.Size]byte // hashes
	end       time.Time
}

// failures are the failed logins of an address.
type failures struct {
	n   int
	end time.Time // of the time that they are counted for
}

// begin begins a session for a token and returns its id.
func (s *sessions) begin(token string) (id string) {
	id = rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, session{sha256.Sum256([]byte(id)), sha256.Sum256([]byte(token)), time.Now().Add(sessionTime)})
	if len(s.all) > maxSessions {
		s.all = slices.Delete(s.all, 0, 1)
	}
	return id
}

// find returns the session with an id.
func (s *sessions) find(id string) (found session, ok bool) {
	hash, now := sha256.Sum256([]byte(id)), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(one session) bool { return now.After(one.end) })
	for _, one := range s.all {
		if constantTimeEqualHash(one.id, hash) == 1 {
			found, ok = one, true
		}
	}
	return found, ok
}

// end ends the session with an id.
func (s *sessions) end(id string) {
	hash := sha256.Sum256([]byte(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(one session) bool { return constantTimeEqualHash(one.id, hash) == 1 })
}

// wait is how long an address has to wait before its next login: 0 if it may log in.
// While as many addresses as are counted have failed, all others wait.
func (s *sessions) wait(from netip.Prefix) time.Duration {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.failed, func(_ netip.Prefix, f *failures) bool { return !now.Before(f.end) })
	switch f := s.failed[from]; {
	case f == nil && len(s.failed) >= maxFailureAddr:
		return failureTime
	case f == nil || f.n < maxFailures:
		return 0
	default:
		return f.end.Sub(now)
	}
}

// fail counts a failed login of an address.
func (s *sessions) fail(from netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = make(map[netip.Prefix]*failures)
	}
	if s.failed[from] == nil {
		s.failed[from] = &failures{end: time.Now().Add(failureTime)}
	}
	s.failed[from].n++
}

// cookieName is the name of the cookie for a Host. Browsers send a cookie to all ports of
// a host: with the port in the name, several servers of a machine have one each.
func cookieName(host string) string {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return "forward_session_" + port
	}
	return "forward_session"
}

// hasSession reports whether a request has the cookie of a session whose token is still
// valid, and comes from a page of this server. A browser sends the cookie along with
// requests of pages at other ports of this host, too; these are refused.
func (k *keys) hasSession(r *http.Request) bool {
	if k.sessions == nil {
		return false
	}
	cookie, err := r.Cookie(cookieName(r.Host))
	if err != nil || !isOurPage(r) {
		return false
	}
	found, ok := k.sessions.find(cookie.Value)
	return ok && slices.ContainsFunc(*k.tokens.Load(), func(t forward.Secret) bool {
		return constantTimeEqualHash(found.token, sha256.Sum256([]byte(t))) == 1
	})
}

// isOurPage reports whether a browser says that a request is from a page of this server,
// or is for one that its user has asked for. A request that changes something needs to
// say so.
func isOurPage(r *http.Request) bool {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin":
		return true
	case "none":
		return reads
	case "": // an old browser, or no TLS and no loopback address
		origin := r.Header.Get("Origin")
		if origin == "" {
			return reads
		}
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Host, r.Host)
	}
	return false
}

// serveSession logs an operator in and out, and says whether that is needed.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		write(w, http.StatusOK, map[string]bool{"operator": s.IsOperator(r)})
	case http.MethodPost:
		s.login(w, r)
	case http.MethodDelete:
		s.logout(w, r)
	default:
		w.Header().Set("Allow", "DELETE, GET, HEAD, POST")
		answerText(w, http.StatusMethodNotAllowed, "This path takes DELETE, GET, HEAD, POST.")
	}
}

// login begins a session for one of the tokens. A form is answered with the page,
// so that a browser without scripts does not stay here.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	from := client(r)
	if wait := s.keys.sessions.wait(from); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		answerText(w, http.StatusTooManyRequests, "Too many logins with a wrong token. Wait a minute.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	var given struct {
		Token string `json:"token"`
	}
	typ, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch typ {
	case "application/json":
		if err := json.NewDecoder(r.Body).Decode(&given); err != nil {
			answerText(w, http.StatusBadRequest, "The body must be an object with token.")
			return
		}
	case "application/x-www-form-urlencoded":
		if err := r.ParseForm(); err != nil {
			answerText(w, http.StatusBadRequest, "The body must be a form with token.")
			return
		}
		given.Token = r.PostForm.Get("token") // never that of a URL
	default:
		answerText(w, http.StatusUnsupportedMediaType, "The body must be JSON or a form.")
		return
	}
	given.Token = strings.TrimSpace(given.Token)
	if !s.keys.isToken(given.Token) {
		s.keys.sessions.fail(from)
		s.log.Warn("control", "action", "login refused", "addr", r.RemoteAddr)
		answerText(w, http.StatusUnauthorized, "This is not a token of this server.")
		return
	}
	cookie := sessionCookie(r)
	cookie.Value, cookie.MaxAge = s.keys.sessions.begin(given.Token), int(sessionTime/time.Second)
	http.SetCookie(w, cookie)
	s.log.Info("control", "action", "login", "addr", r.RemoteAddr)
	w.Header().Set("Cache-Control", "no-store")
	if typ == "application/json" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Location", "./")
	w.WriteHeader(http.StatusSeeOther)
}

// logout ends the session of the request, which needs no credential: without one there
// is nothing to end.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	cookie := sessionCookie(r)
	if s.keys.hasSession(r) {
		given, _ := r.Cookie(cookie.Name)
		s.keys.sessions.end(given.Value)
		s.log.Info("control", "action", "logout", "addr", r.RemoteAddr)
	}
	cookie.MaxAge = -1
	http.SetCookie(w, cookie)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// sessionCookie is the cookie for a request, without a value. It is Secure if the
// browser's page came over TLS, which a proxy may have ended.
func sessionCookie(r *http.Request) *http.Cookie {
	return &http.Cookie{
		Name: cookieName(r.Host), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.HasPrefix(r.Header.Get("Origin"), "https://"),
	}
}

// client is the address that a request comes from, of IPv6 the first 64 bits.
func client(r *http.Request) netip.Prefix {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := addr.Addr().Unmap(), 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}
