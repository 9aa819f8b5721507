package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// Backends, and proxies in front of them, use all ways that HTTP has to send an answer.
func TestHook_Answers(t *testing.T) {
	const want = `{"code":0}`
	for name, tt := range map[string]struct {
		do     http.HandlerFunc
		failed string
	}{
		"plain": {do: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, want) }},
		"chunked": {do: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, want[:3])
			w.(http.Flusher).Flush()
			io.WriteString(w, want[3:])
		}},
		"compressed, not asked for": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(gzipped(want))
		}},
		"compressed, the old name": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "X-GZIP")
			w.Write(gzipped(want))
		}},
		"identity": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "identity")
			io.WriteString(w, want)
		}},
		"another encoding": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, want)
		}, failed: `reply has Content-Encoding "br": expected none or gzip`},
		"said to be compressed": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, want)
		}, failed: "read reply: gzip: invalid header"},
		"compressed, and nothing in it": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
		}, failed: "empty"},
		"compressed, endless": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(gzipped(strings.Repeat(" ", 10<<20)))
		}, failed: "reply longer than 100 bytes"},
		"early hints": {do: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, want)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(tt.do)
			defer s.Close()
			h := New(Options{URL: s.URL, Client: Client(nil), MaxReply: 100, Turns: 1})
			got, err := h.Call(t.Context(), "", []byte("{}"), time.Minute)
			switch tt.failed {
			case "":
				require.NoError(t, err)
				require.Equal(t, want, string(got))
			case "empty":
				require.NoError(t, err)
				require.Empty(t, got)
			default:
				require.ErrorContains(t, err, tt.failed)
			}
		})
	}
}

// A call to a backend with HTTP/2 uses HTTP/2.
func TestHook_HTTP2(t *testing.T) {
	var protos []string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protos = append(protos, r.Proto)
		io.WriteString(w, "0")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	c := Client(nil)
	transport := c.Transport.(located).RoundTripper.(*http.Transport)
	transport.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	h := New(Options{URL: s.URL, Client: c, MaxReply: 100, Turns: 1})
	for range 2 {
		got, err := h.Call(t.Context(), "", []byte("{}"), time.Minute)
		require.NoError(t, err)
		require.Equal(t, "0", string(got))
	}
	require.Equal(t, []string{"HTTP/2.0", "HTTP/2.0"}, protos)
}

// lazy is a backend that closes a connection when the next request arrives, as if its
// timeout had just expired.
type lazy struct {
	net.Listener
	mu     sync.Mutex
	ids    []string // of the requests
	closed int
}

func (l *lazy) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 0; ; n++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		l.mu.Lock()
		l.ids = append(l.ids, req.Header.Get("webhook-id"))
		if n > 0 {
			l.closed++
		}
		l.mu.Unlock()
		if n > 0 {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")
	}
}

// The client keeps connections, and the backend has closed any number of them. A call
// gets its answer, and the backend sees one id for all tries.
func TestHook_ClosedWhileIdle(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &lazy{Listener: ln}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { l.serve(c) })
		}
	})
	transport := &http.Transport{MaxIdleConnsPerHost: 10}
	defer func() {
		ln.Close()
		transport.CloseIdleConnections()
		serving.Wait()
	}()
	h := New(Options{URL: "http://" + ln.Addr().String(), Key: []byte("k"), Client: Client(&http.Client{Transport: transport}), MaxReply: 100, Turns: 10})
	const conns = 5
	var calls sync.WaitGroup
	for range conns {
		calls.Go(func() {
			_, err := h.Call(t.Context(), "", []byte("{}"), time.Minute)
			require.NoError(t, err)
		})
	}
	calls.Wait()
	l.mu.Lock()
	before := len(l.ids)
	l.mu.Unlock()
	_, err = h.Call(t.Context(), "", []byte("{}"), time.Minute)
	require.NoError(t, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.ids[before+1:] {
		require.Equal(t, l.ids[before], id)
	}
	require.Positive(t, l.closed)
}

// An answer that arrives byte by byte has the same timeout as any other.
func TestHook_AnswersSlowly(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for io.WriteString(w, " "); r.Context().Err() == nil; {
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
				io.WriteString(w, " ")
			}
		}
	}))
	defer s.Close()
	h := New(Options{URL: s.URL, Client: Client(nil), MaxReply: 1 << 20, Turns: 1})
	began := time.Now()
	_, err := h.Call(t.Context(), "", []byte("{}"), 100*time.Millisecond)
	require.EqualError(t, err, "no answer within 100ms")
	require.Less(t, time.Since(began), 2*time.Second)
}
