package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward"
)

// Limits of a Server, for clients that have no token yet.
const (
	maxClients    = 256      // connections; more are closed at once
	maxHeader     = 16 << 10 // bytes of a request's header
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second // for the whole body
	writeTimeout  = 30 * time.Second // for each write of an answer
	idleTimeout   = 2 * time.Minute  // between two requests
)

// Credential says how a request to a path of a Server is authorized.
type Credential int

const (
	// RequireToken makes the Server answer 401 unless the request has an operator's
	// credential: one of Options.Tokens, or the cookie of a session.
	RequireToken Credential = iota
	// HandlerDecides leaves it to the handler to authorize each request, for example
	// with Server.IsOperator.
	HandlerDecides
)

// ServerOptions are the options of NewServer.
type ServerOptions struct {
	Options

	// Hosts are names of this machine that requests may have in their Host header,
	// besides IP addresses and localhost. Any other name is answered 421, so that a
	// page of another site cannot reach the Server under a name of its own (DNS
	// rebinding).
	Hosts []string

	// Listeners is how many listeners the forward.Server must accept connections from
	// to be ready. Default: 1.
	Listeners int
}

// Server is an HTTP server for operators. It has
//
//	GET /healthz      200 for as long as it serves
//	GET /readyz       200 while the forward.Server accepts connections from all its
//	                  listeners, else 503: from the beginning of its Shutdown on
//	GET /session      {"operator":true} if the request has an operator's credential
//	POST /session     begins the session of a browser, for one of Options.Tokens
//	DELETE /session   ends it
//	/control/…        Handler
//
// and what is added with Handle. Only /healthz, /readyz and /session are
// answered without a credential.
//
// POST /session takes {"token":"…"} or a form with token. It answers 204 to JSON and
// 303 to a form, with the cookie of a session, which is valid for 12 hours wherever a
// token is. It answers 401 to a wrong token, and 429 to an address after 5 of them within
// a minute. The cookie is HttpOnly and SameSite=Strict, and Secure if the page came over
// TLS; it counts only in requests that come from a page of the Server itself. There
// are 64 sessions at most: another one ends the oldest. A session also ends when its token
// is replaced, and with the process.
//
// It refuses requests that other sites make a browser send, and limits
// connections, times and sizes. It does not use TLS by itself: listen on a private
// address, give Serve a listener of crypto/tls, or put a proxy in front of it. Its methods are safe for concurrent use.
type Server struct {
	masked
	srv       *forward.Server
	listeners int
	keys      *keys
	hosts     atomic.Pointer[[]string]
	origins   *http.CrossOriginProtection
	mux       *http.ServeMux
	http      http.Server
	log       *slog.Logger
	cancel    context.CancelFunc // of the contexts of requests

	mu    sync.Mutex
	own   map[string]bool // patterns with HandlerDecides
	conns int
	idle  *sync.Cond // conns is 0
}

// masked is what a Server looks like when it is printed, as a value and as a pointer.
type masked struct{}

// Format writes the name of the type, for every verb.
func (masked) Format(f fmt.State, _ rune) { io.WriteString(f, "control.Server") }

// MarshalText gives the same as Format.
func (masked) MarshalText() ([]byte, error) { return []byte("control.Server"), nil }

// NewServer returns a Server for the live streams of srv. It returns an error if Tokens
// is invalid.
func NewServer(srv *forward.Server, o ServerOptions) (*Server, error) {
	if err := checkTokens(o.Tokens); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = srv.Logger()
	}
	s := &Server{
		srv: srv, listeners: max(o.Listeners, 1), keys: &keys{sessions: new(sessions)}, origins: http.NewCrossOriginProtection(),
		mux: http.NewServeMux(), own: make(map[string]bool), log: o.Logger,
	}
	s.idle = sync.NewCond(&s.mu)
	s.set(o)
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.http = http.Server{
		Handler: http.HandlerFunc(s.serve), BaseContext: func(net.Listener) context.Context { return ctx },
		MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ConnState: s.count, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	s.Handle("/", RequireToken, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusNotFound, notFound("There is nothing at this path."))
	}))
	s.Handle("/session", HandlerDecides, http.HandlerFunc(s.serveSession))
	s.Handle("/control/", RequireToken, http.StripPrefix("/control", newHandler(srv, o.Options, s.keys)))
	return s, nil
}

// Format writes the number of tokens, for every verb.
func (o ServerOptions) Format(f fmt.State, verb rune) { o.Options.Format(f, verb) }

// Reload replaces the Tokens and Hosts. The other options are those of NewServer. It
// returns an error, and changes nothing, if Tokens is invalid.
func (s *Server) Reload(o ServerOptions) error {
	if err := checkTokens(o.Tokens); err != nil {
		return err
	}
	s.set(o)
	return nil
}

func (s *Server) set(o ServerOptions) {
	s.keys.set(o.Tokens)
	hosts := slices.Clone(o.Hosts)
	s.hosts.Store(&hosts)
}

// Handle adds a handler for a pattern of http.ServeMux, and says how requests to it are
// authorized. Bodies of requests are limited to 64 KiB and 10 s. A handler may take any
// time if it heeds the context of the request, which ends with Close. Each of its
// writes may take 30 s. Handle panics if there is a handler for the pattern already.
func (s *Server) Handle(pattern string, c Credential, h http.Handler) {
	s.mu.Lock()
	s.own[pattern] = c == HandlerDecides
	s.mu.Unlock()
	s.mux.Handle(pattern, h)
}

// IsOperator reports whether a request has an operator's credential: one of the tokens,
// or the cookie of a session. It is for handlers with HandlerDecides; the Server has
// checked the Host and the origin of their requests.
func (s *Server) IsOperator(r *http.Request) bool { return s.keys.isOperator(r) }

// Serve serves on l, as the Serve of net/http does, until Shutdown or Close.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(l) }

// Shutdown closes the listeners and waits until all requests are answered, or ctx ends;
// call Close to cut off the rest. Shut down the forward.Server first, so that /readyz
// says so meanwhile.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close ends everything at once. It returns when no handler is running.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.conns > 0 {
		s.idle.Wait()
	}
	return err
}

// count counts connections and closes those that are too many.
func (s *Server) count(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns++
		if s.conns > maxClients {
			c.Close() // what follows is StateClosed
		}
	case http.StateClosed, http.StateHijacked:
		s.conns--
		if s.conns == 0 {
			s.idle.Broadcast()
		}
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	out := &writer{ResponseWriter: w, conn: http.NewResponseController(w)}
	out.limit()
	defer out.finish()
	switch r.URL.Path {
	case "/healthz":
		answerHealth(out, r, http.StatusOK, "alive")
		return
	case "/readyz":
		if s.srv.Listening() >= s.listeners {
			answerHealth(out, r, http.StatusOK, "ready")
		} else {
			answerHealth(out, r, http.StatusServiceUnavailable, "not ready")
		}
		return
	}
	if !s.isOurs(r.Host) {
		answerText(out, http.StatusMisdirectedRequest, "The Host of the request is neither an IP address nor a name that this server goes by.")
		return
	}
	if s.origins.Check(r) != nil {
		answerText(out, http.StatusForbidden, "The request comes from a page of another site.")
		return
	}
	if _, pattern := s.mux.Handler(r); !s.decides(pattern) {
		var f *failure
		if err := s.keys.admit(out, r); errors.As(err, &f) {
			f.write(out)
			return
		}
	}
	if r.Body != http.NoBody {
		out.conn.SetReadDeadline(time.Now().Add(bodyTimeout))
		r.Body = &body{http.MaxBytesReader(w, r.Body, maxBody), out.conn}
	}
	s.mux.ServeHTTP(out, r)
}

// decides reports whether the handler of a pattern authorizes requests itself. A request
// that no handler is for has an empty pattern.
func (s *Server) decides(pattern string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own[pattern]
}

// isOurs reports whether a Host header names this machine. A page of another site cannot
// have an IP address as its host, but can have any name that its owner gives this
// machine's address.
func (s *Server) isOurs(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(*s.hosts.Load(), func(name string) bool { return strings.EqualFold(name, host) })
}

// answerHealth answers a health check.
func answerHealth(w http.ResponseWriter, r *http.Request, status int, text string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		status, text = http.StatusMethodNotAllowed, "This path takes GET, HEAD."
	}
	answerText(w, status, text)
}

// answerText answers with a text.
func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}

// body is that of a request. Its end ends the time limit: from then on net/http reads
// the connection to learn when the client leaves.
type body struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// writer limits the time of each write to a connection, which lasts longer than a
// request.
type writer struct {
	http.ResponseWriter
	conn     *http.ResponseController
	hijacked bool
}

func (w *writer) limit() { w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) }

// finish limits the write of what is buffered.
func (w *writer) finish() {
	if !w.hijacked {
		w.limit()
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.limit()
	return w.ResponseWriter.Write(p)
}

// Flush is for handlers that ask for an http.Flusher.
func (w *writer) Flush() {
	w.limit()
	w.conn.Flush()
}

// Hijack gives the connection to the handler, without limits.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.conn.Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
