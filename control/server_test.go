package control

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// newControlServer returns a Server that the end of the test closes.
func newControlServer(t *testing.T, srv *forward.Server, o ServerOptions) *Server {
	t.Helper()
	if o.Tokens == nil {
		o.Tokens = []forward.Secret{token}
	}
	s, err := NewServer(srv, o)
	require.NoError(t, err)
	leaktest.Track(t, s)
	t.Cleanup(func() { s.Close() }) // whose error may be of a listener that the test has closed
	return s
}

// listening serves on a port of this machine and returns the address.
func listening(t *testing.T, serve func(net.Listener) error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go serve(l)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// asked is an answer to a request that is not sent over a network.
func asked(s *Server, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.serve(w, r)
	secretscan.Check("answer", w.Body.String(), w.Header())
	return w
}

// request is one with the token.
func request(method, url string, header ...string) *http.Request {
	r := httptest.NewRequest(method, url, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestServerTellsItsHealth(t *testing.T) {
	unpublished := make(chan struct{})
	srv := newServer(t, forward.Config{Hooks: forward.Hooks{OnUnpublish: func(context.Context, *forward.Request) { <-unpublished }}})
	s := newControlServer(t, srv, ServerOptions{Listeners: 2})
	addr := listening(t, s.Serve)
	check := func(path string) (int, string) {
		resp, err := http.Get("http://" + addr + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		return resp.StatusCode, string(text)
	}
	is := func(path string, status int, text string) {
		t.Helper()
		gotStatus, gotText := check(path)
		require.Equal(t, status, gotStatus)
		require.Equal(t, text+"\n", gotText)
	}
	is("/healthz", 200, "alive")
	is("/readyz", 503, "not ready")
	listening(t, srv.Serve)
	eventually(t, func() bool { return srv.Listening() == 1 })
	is("/readyz", 503, "not ready")
	listening(t, srv.Serve)
	eventually(t, func() bool { return srv.Listening() == 2 })
	is("/readyz", 200, "ready")

	// Not ready from the beginning of the end, which waits for a hook here.
	publish(t, srv, "live", canary)
	ended := make(chan error, 1)
	go func() { ended <- srv.Shutdown(context.Background()) }()
	eventually(t, func() bool { status, _ := check("/readyz"); return status == 503 })
	is("/healthz", 200, "alive")
	require.Empty(t, ended, "it has not ended")
	close(unpublished)
	require.NoError(t, <-ended)
	is("/readyz", 503, "not ready")
	is("/healthz", 200, "alive")
	http.DefaultClient.CloseIdleConnections()
}

func TestServerAnswersHealthToGetAndHeadAlone(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
	for _, path := range []string{"/healthz", "/readyz"} {
		for method, status := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405, "OPTIONS": 405} {
			r := httptest.NewRequest(method, path, nil)
			r.Host = "any.example" // as probes may have it
			w := asked(s, r)
			if path == "/readyz" && status == 200 {
				status = 503
			}
			require.Equal(t, status, w.Code, method)
			require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			require.Equal(t, status == 405, w.Header().Get("Allow") == "GET, HEAD")
		}
	}
}

func TestServerAsksForTheToken(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
	says := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	}
	s.Handle("GET /facts", RequireToken, says("facts"))
	s.Handle("/media/{name}", HandlerDecides, says("media"))
	for _, tt := range []struct {
		method, path    string
		without, status int // without a token and with it
		text            string
	}{
		{"GET", "/control/sources", 401, 200, `{"sources":[]}`},
		{"GET", "/control/sources/none", 401, 404, "There is no live stream with this id."},
		{"GET", "/control", 401, 307, ""},
		{"GET", "/control//sources", 401, 307, ""},
		{"GET", "/", 401, 404, "There is nothing at this path."},
		{"GET", "/nothing", 401, 404, "There is nothing at this path."},
		{"GET", "/healthz/", 401, 404, "There is nothing at this path."},
		{"GET", "/facts", 401, 200, "facts"},
		{"POST", "/facts", 401, 404, "There is nothing at this path."},
		{"GET", "/media/x", 200, 200, "media"},
		{"GET", "/media/", 401, 404, "There is nothing at this path."},
	} {
		name := tt.method + " " + tt.path
		r := request(tt.method, tt.path)
		r.Host = "127.0.0.1:8080"
		w := asked(s, r)
		require.Equal(t, tt.status, w.Code, name)
		require.Contains(t, w.Body.String(), tt.text, name)
		for _, wrong := range []string{"", "Bearer", "Bearer " + token[1:], token} {
			r.Header.Set("Authorization", wrong)
			w = asked(s, r)
			require.Equal(t, tt.without, w.Code, name)
			require.Equal(t, tt.without == 401, w.Header().Get("WWW-Authenticate") == "Bearer", name)
		}
	}
	require.Panics(t, func() { s.Handle("GET /facts", RequireToken, says("again")) })
}

// A page of another site that has a name for this machine, or makes a browser send a
// request, gets no answer even with the token.
func TestServerRefusesOtherSites(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{Hosts: []string{"Forward.example"}})
	for host, ok := range map[string]bool{
		"127.0.0.1:8080": true, "127.0.0.1": true, "[::1]:8080": true, "[::1]": true, "192.0.2.1:80": true,
		"localhost:8080": true, "LOCALHOST": true, "forward.example:8080": true, "forward.example": true,
		"evil.example": false, "evil.example:8080": false, "sub.forward.example": false, "127.0.0.1.evil.example:8080": false,
		"localhost.evil.example": false, "": false, ":8080": false, "a.localhost": false,
	} {
		r := request("GET", "/control/sources")
		r.Host = host
		w := asked(s, r)
		require.Equal(t, ok, w.Code == 200, host)
		require.Equal(t, !ok, w.Code == 421, host)
	}
	for _, tt := range []struct {
		method, name, value string
		ok                  bool
	}{
		{"DELETE", "Origin", "http://127.0.0.1:8080", true},
		{"DELETE", "Origin", "http://evil.example", false},
		{"DELETE", "Origin", "null", false},
		{"DELETE", "Origin", "http://127.0.0.1:8081", false},
		{"DELETE", "Sec-Fetch-Site", "cross-site", false},
		{"DELETE", "Sec-Fetch-Site", "same-site", false},
		{"DELETE", "Sec-Fetch-Site", "same-origin", true},
		{"POST", "Origin", "http://evil.example", false},
		{"GET", "Origin", "http://evil.example", true}, // whose answer the browser keeps from the page
	} {
		r := request(tt.method, "/control/sources/none", tt.name, tt.value)
		r.Host = "127.0.0.1:8080"
		w := asked(s, r)
		require.Equal(t, !tt.ok, w.Code == 403, "%+v", tt)
		require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
	}
}

func TestServerReloads(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
	get := func(host, token string) int {
		r := httptest.NewRequest("GET", "/control/sources", nil)
		r.Host = host
		r.Header.Set("Authorization", "Bearer "+token)
		return asked(s, r).Code
	}
	require.Equal(t, 200, get("127.0.0.1", token))
	require.Equal(t, 421, get("h.example", token))
	require.Error(t, s.Reload(ServerOptions{Hosts: []string{"h.example"}}))
	require.Equal(t, 421, get("h.example", token), "nothing has changed")
	require.NoError(t, s.Reload(ServerOptions{Options: Options{Tokens: []forward.Secret{"the next " + canary}}, Hosts: []string{"h.example"}}))
	require.Equal(t, 401, get("h.example", token))
	require.Equal(t, 200, get("h.example", "the next "+canary))
}

func TestServerNeedsToken(t *testing.T) {
	for _, tokens := range [][]forward.Secret{nil, {""}} {
		s, err := NewServer(newServer(t, forward.Config{}), ServerOptions{Options: Options{Tokens: tokens}})
		require.ErrorContains(t, err, "token")
		require.Nil(t, s)
	}
}

func TestServerOptionsHoldNoSecretWhenPrinted(t *testing.T) {
	o := ServerOptions{Options: Options{Tokens: []forward.Secret{token}}}
	for _, v := range []any{o, &o, []ServerOptions{o}, struct{ O ServerOptions }{o}} {
		require.NotContains(t, secretscan.Prints(v), canary)
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inMemory calls f in a bubble with a Server.
func inMemory(t *testing.T, f func(t *testing.T, s *Server, p pipes)) {
	synctest.Test(t, func(t *testing.T) {
		srv := forward.NewServer(forward.Config{Logger: secretscan.Quiet})
		s, err := NewServer(srv, ServerOptions{Options: Options{Tokens: []forward.Secret{token}}})
		require.NoError(t, err)
		p := pipes{make(chan net.Conn), make(chan struct{})}
		served := make(chan error)
		go func() { served <- s.Serve(p) }()
		f(t, s, p)
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
		require.NoError(t, srv.Close())
	})
}

// Slow clients are cut off, at each part of a request.
func TestServerLimitsTimes(t *testing.T) {
	const get = "GET /control/sources HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	for name, tt := range map[string]struct {
		send  string
		after time.Duration
	}{
		"nothing":            {"", headerTimeout},
		"part of a header":   {get[:30], headerTimeout},
		"part of a body":     {"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345", bodyTimeout},
		"no next request":    {get, idleTimeout},
		"answer is not read": {"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n", writeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, s *Server, p pipes) {
				s.Handle("/body", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, err := io.ReadAll(r.Body)
					require.Error(t, err)
					panic(http.ErrAbortHandler)
				}))
				s.Handle("/much", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for {
						if _, err := w.Write(make([]byte, 1<<20)); err != nil {
							return
						}
					}
				}))
				c := p.dial()
				defer c.Close()
				begun := time.Now()
				_, err := io.WriteString(c, tt.send)
				require.NoError(t, err)
				if strings.HasPrefix(tt.send, "GET /much") {
					synctest.Wait()
					time.Sleep(tt.after - time.Nanosecond)
					synctest.Wait()
					require.Equal(t, 1, s.connections())
					time.Sleep(time.Second)
					synctest.Wait()
					require.Zero(t, s.connections())
					return
				}
				io.Copy(io.Discard, c) // up to the end
				require.InDelta(t, tt.after, time.Since(begun), float64(time.Second))
			})
		})
	}
}

// Neither a handler that streams nor one that waits is cut off, and both learn that the
// client has left.
func TestServerGivesHandlersTime(t *testing.T) {
	inMemory(t, func(t *testing.T, s *Server, p pipes) {
		left := make(chan struct{})
		s.Handle("/stream", RequireToken, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			time.Sleep(5 * time.Minute)
			for range 10 {
				time.Sleep(writeTimeout)
				require.NoError(t, r.Context().Err())
				w.Write(text)
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
			close(left)
		}))
		c := p.dial()
		_, err := io.WriteString(c, "POST /stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+token+"\r\nContent-Length: 5\r\n\r\n12345")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, 50))
		require.NoError(t, err)
		c.Close()
		<-left
	})
}

// A connection that has rested for long is answered: the limit of the last answer is over.
func TestServerLimitsEachAnswerAlone(t *testing.T) {
	inMemory(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial()
		defer c.Close()
		in := bufio.NewReader(c)
		for range 3 {
			for path, status := range map[string]int{"/healthz": 200, "/nothing": 401} {
				_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
				require.NoError(t, err)
				resp, err := http.ReadResponse(in, nil)
				require.NoError(t, err)
				require.Equal(t, status, resp.StatusCode)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				time.Sleep(writeTimeout + time.Minute)
			}
		}
	})
}

func TestServerLimitsSizesAndConnections(t *testing.T) {
	inMemory(t, func(t *testing.T, s *Server, p pipes) {
		var read int64
		s.Handle("/body", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			read, err = io.Copy(io.Discard, r.Body)
			require.Error(t, err)
		}))
		ask := func(text string) int {
			c := p.dial()
			defer c.Close()
			go io.Copy(c, strings.NewReader(text))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			return resp.StatusCode
		}
		require.Equal(t, 431, ask("GET / HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 2*maxHeader)+"\r\n\r\n"))
		require.Equal(t, 200, ask("POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100000)))
		require.EqualValues(t, maxBody, read)
		synctest.Wait()

		var all []net.Conn
		for range maxClients {
			all = append(all, p.dial())
		}
		synctest.Wait()
		require.Equal(t, maxClients, s.connections())
		more := p.dial()
		_, err := more.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		all[0].Close()
		synctest.Wait()
		all[0] = p.dial()
		_, err = io.WriteString(all[0], "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(all[0]), nil)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		for _, c := range all {
			c.Close()
		}
	})
}

func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Shutdown waits for answers that are under way. Close ends them, and waits until their
// handlers have returned.
func TestServerEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, s *Server, p pipes) {
		returned := false
		release := make(chan struct{})
		s.Handle("/wait", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
				fmt.Fprint(w, "done")
			case <-r.Context().Done():
				time.Sleep(time.Second)
				returned = true
			}
		}))
		c, other := p.dial(), p.dial()
		defer c.Close()
		defer other.Close()
		for _, c := range []net.Conn{c, other} {
			_, err := io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
			require.NoError(t, err)
		}
		synctest.Wait()
		end := make(chan error, 1)
		go func() { end <- s.Shutdown(context.Background()) }()
		release <- struct{}{}
		answers := make(chan string, 2)
		for _, c := range []net.Conn{c, other} {
			go func() {
				text, _ := io.ReadAll(c)
				answers <- string(text)
			}()
		}
		require.True(t, strings.HasSuffix(<-answers, "done"))
		synctest.Wait()
		require.Empty(t, end)
		require.NoError(t, s.Close())
		require.True(t, returned)
		require.NoError(t, <-end)
		require.Empty(t, <-answers)
	})
}

// A connection that a handler has taken is its own.
func TestServerLetsHandlersHijack(t *testing.T) {
	inMemory(t, func(t *testing.T, s *Server, p pipes) {
		taken := make(chan net.Conn, 1)
		s.Handle("/take", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			taken <- c
		}))
		c := p.dial()
		defer c.Close()
		_, err := io.WriteString(c, "GET /take HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		own := <-taken
		defer own.Close()
		synctest.Wait()
		require.Zero(t, s.connections())
		time.Sleep(2 * writeTimeout)
		go own.Write([]byte("media"))
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(got, []byte("media")))
	})
}
