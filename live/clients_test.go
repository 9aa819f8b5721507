package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
	"github.com/rtmp-forward/forward/flv"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// ask makes a request and returns its status, and the answer's text if it is no stream.
func (s *site) ask(method, path string, header http.Header) (status int, text string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.http.URL+path, nil)
	require.NoError(s.t, err)
	for name, values := range header {
		r.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	resp, err := s.http.Client().Do(r)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(resp.Body)
		require.NoError(s.t, err)
		text = strings.TrimSpace(string(b))
	}
	secretscan.Check(s.t.Name(), resp.Header, text)
	return resp.StatusCode, text
}

func TestPlayersAreAskedAbout(t *testing.T) {
	token := auth.Token{Secrets: []forward.Secret{canary}, Purpose: "play"}
	var stopped, closed atomic.Int64
	var sent atomic.Uint64
	hooks := forward.Hooks{
		OnConnect: func(_ context.Context, r *forward.Request) error {
			if r.FlashVer != "" || r.Stream != "" || r.Param != "" {
				return errors.New("names in OnConnect")
			}
			return nil
		},
		OnPlay: func(_ context.Context, r *forward.Request) error {
			if r.Name() == "live/told" {
				return &forward.StatusError{Description: "Pay first."}
			}
			return token.Verify(r)
		},
		OnStop:  func(context.Context, *forward.Request) { stopped.Add(1) },
		OnClose: func(_ context.Context, _ *forward.Request, n, _ uint64) { closed.Add(1); sent.Add(n) },
	}
	s := newSite(t, forward.Config{MergeWindow: -1, Hooks: hooks}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	query, err := token.Sign("live/"+name, time.Now().Add(time.Minute))
	require.NoError(t, err)
	other, err := token.Sign("live/none", time.Now().Add(time.Minute))
	require.NoError(t, err)
	old, err := token.Sign("live/"+name, time.Now().Add(-time.Minute))
	require.NoError(t, err)
	for _, tt := range []struct {
		path   string
		status int
		text   string
	}{
		{"/live/" + name + ".flv?" + query, 200, ""},
		{"/live/" + name + ".mp4?" + query, 200, ""},
		{"/live/" + name + ".flv", 403, "Playing is refused."},
		{"/live/" + name + ".mp4?" + old, 403, "Playing is refused."},
		{"/live/" + name + ".flv?" + other, 403, "Playing is refused."},
		{"/live/none.flv?" + other, 404, "No stream of this name is live."},
		{"/live/told.flv", 403, "Pay first."},
		{"/live/" + name, 404, "There is nothing at this path."},
		{"/" + name + ".flv", 404, "There is nothing at this path."},
		{"/live/%2e%2e/" + name + ".flv", 404, "No stream of this name is live."},
		{"/live/" + name + ".flv?vhost=a%2fb&" + query, 403, "Playing is refused."},
	} {
		status, text := s.ask(http.MethodGet, tt.path, nil)
		require.Equal(t, tt.status, status, tt.path)
		require.Equal(t, tt.text, text, tt.path)
	}
	status, _ := s.ask(http.MethodPost, "/live/"+name+".flv?"+query, nil)
	require.Equal(t, http.StatusMethodNotAllowed, status)
	eventually(t, func() bool { return stopped.Load() == 3 && closed.Load() == 8 })
	require.Positive(t, sent.Load())
	require.EqualValues(t, 5, s.srv.Stats().Refused)
	require.Zero(t, s.srv.Stats().Connections)
}

// The vhost is that of the Host header, if it is listed, or of the query.
func TestVhosts(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1, Vhosts: map[string]forward.Vhost{"studio.example": {}, "__defaultVhost__": {}}}, Options{})
	p, err := s.srv.Publish(t.Context(), forward.Request{Vhost: "studio.example", App: "live", Stream: name})
	require.NoError(t, err)
	defer p.Close()
	begin(t, p)
	for _, tt := range []struct {
		host, query string
		status      int
	}{{"studio.example:8080", "", 200}, {"", "?vhost=studio.example", 200}, {"", "", 404}, {"other.example", "", 404}} {
		status, _ := s.ask(http.MethodGet, "/live/"+name+".flv"+tt.query, http.Header{"Host": {tt.host}})
		require.Equal(t, tt.status, status, tt)
	}
}

func TestOperators(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1, Hooks: forward.Hooks{
		OnPlay: func(context.Context, *forward.Request) error { return errors.New("nobody") },
	}}, Options{Operator: func(r *http.Request) bool { return r.Header.Get("Cookie") == "session=1" }})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	path := "/sources/" + p.Source().ID() + "/live."
	cookie := func(more ...string) http.Header {
		h := http.Header{"Cookie": {"session=1"}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	for _, tt := range []struct {
		path   string
		header http.Header
		status int
	}{
		{path + "flv", cookie(), 200},
		{path + "mp4", cookie("Sec-Fetch-Site", "same-origin"), 200},
		{path + "mp4", cookie("Sec-Fetch-Site", "none"), 200},
		{path + "mp4", cookie("Origin", s.http.URL), 200},
		{path + "mp4", cookie("Sec-Fetch-Site", "cross-site"), 403},
		{path + "mp4", cookie("Sec-Fetch-Site", "same-site"), 403},
		{path + "flv", cookie("Origin", "https://evil.example"), 403},
		{path + "flv", cookie("Origin", "null"), 403},
		{path + "flv", nil, 401},
		{path + "ts", cookie(), 404},
		{"/sources/0123456789abcdef/live.flv", cookie(), 404},
		{"/sources/0123456789abcdef/live.flv", nil, 401},
	} {
		status, _ := s.ask(http.MethodGet, tt.path, tt.header)
		require.Equal(t, tt.status, status, "%s %v", tt.path, tt.header)
	}
	eventually(t, func() bool { return s.srv.Stats().Players == 0 })
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		origins []string
		want    string
	}{{nil, ""}, {[]string{"https://a.example"}, "https://a.example"}, {[]string{"https://b.example"}, ""}, {[]string{"*"}, "*"}} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/live/none.flv", nil)
		r.Header.Set("Origin", "https://a.example")
		New(newSite(t, forward.Config{}, Options{}).srv, Options{Origins: tt.origins}).Players().ServeHTTP(w, r)
		require.Equal(t, tt.want, w.Header().Get("Access-Control-Allow-Origin"))
	}
}

// Without the connection, as in HTTP/2, a goroutine writes what the Server would.
func TestFLVOverHTTP2(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	two := httptest.NewUnstartedServer(s.h.Players())
	two.EnableHTTP2 = true
	two.StartTLS()
	t.Cleanup(two.Close)
	begin(t, p)
	write(t, p, forward.TagVideo, 2000, keyframe(200_000))
	resp, err := two.Client().Get(two.URL + "/live/" + name + ".flv")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	body := flv.NewReader(bufio.NewReader(resp.Body))
	require.Equal(t, []string{"18 0 2 17", "9 2000 17 10", "8 2000 af 4", "9 2000 17 200005"}, next(t, body, 4))
	write(t, p, forward.TagAudio, 2040, sound(3))
	require.Equal(t, []string{"8 2040 af 5"}, next(t, body, 1))
	require.Equal(t, 1, p.Source().Stats().Players)
	require.NoError(t, p.Close())
	_, err = body.Next()
	require.ErrorIs(t, err, io.EOF)
}

// Over TLS, HTTP/1.1 has its connection taken, too.
func TestFLVOverTLS(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	one := httptest.NewTLSServer(s.h.Players())
	t.Cleanup(one.Close)
	begin(t, p)
	write(t, p, forward.TagVideo, 2000, keyframe(200_000))
	resp, err := one.Client().Get(one.URL + "/live/" + name + ".flv")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 1, resp.ProtoMajor)
	body := flv.NewReader(bufio.NewReader(resp.Body))
	require.Equal(t, []string{"18 0 2 17", "9 2000 17 10", "8 2000 af 4", "9 2000 17 200005"}, next(t, body, 4))
	require.NoError(t, p.Close())
	_, err = body.Next()
	require.ErrorIs(t, err, io.EOF)
}

// dial sends a request over a connection of the test's own.
func (s *site) dial(request string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.http.Listener.Addr().String())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, request)
	require.NoError(s.t, err)
	return c
}

// Clients that never read are cut off, in either format; others are not disturbed.
func TestClientsThatNeverRead(t *testing.T) {
	for _, format := range []string{"flv", "mp4"} {
		t.Run(format, func(t *testing.T) {
			s := newSite(t, forward.Config{MergeWindow: -1, WriteTimeout: 200 * time.Millisecond}, Options{})
			p := s.publish()
			send(t, p, clip(t, "h264_aac.flv"), 0)
			for range 3 {
				s.dial("GET /live/" + name + "." + format + " HTTP/1.1\r\nHost: x\r\n\r\n").(*net.TCPConn).SetReadBuffer(4096)
			}
			eventually(t, func() bool { return p.Source().Stats().Players == 3 })
			deadline := time.Now().Add(30 * time.Second)
			for ms := uint32(6000); s.srv.Stats().Connections > 0; ms += 40 {
				require.True(t, time.Now().Before(deadline))
				write(t, p, forward.TagVideo, ms, inter(1<<20))
				if ms%400 == 0 {
					write(t, p, forward.TagVideo, ms, keyframe(1<<20))
				}
				time.Sleep(10 * time.Millisecond) // the pace of the encoder
			}
			require.Zero(t, p.Source().Stats().Players)
		})
	}
}

func TestClientsThatLeaveAtOnce(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	for range 20 {
		for _, request := range []string{
			"", "GET /live/", "GET /live/" + name + ".flv HTTP/1.1\r\n",
			"GET /live/" + name + ".flv HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /live/" + name + ".mp4 HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /live/" + name + ".flv HTTP/1.0\r\n\r\nGET /live/" + name + ".flv HTTP/1.0\r\n\r\n",
		} {
			s.dial(request).Close()
		}
	}
	eventually(t, func() bool { return s.srv.Stats().Connections == 0 && s.h.muxers.count() == 0 })
}

// A thousand requests leave nothing, and the limit holds.
func TestAThousandRequests(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1, Limits: forward.Limits{Connections: 10}}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	var ok, full atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 50 {
				format := [2]string{"flv", "mp4"}[(i+j)%2]
				c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				resp, err := c.Get(fmt.Sprintf("%s/live/%s.%s", s.http.URL, name, format))
				if err != nil {
					t.Error(err)
					return
				}
				switch resp.StatusCode {
				case http.StatusOK:
					ok.Add(1)
					io.CopyN(io.Discard, resp.Body, 1000)
				case http.StatusServiceUnavailable:
					full.Add(1)
				default:
					t.Errorf("status %d", resp.StatusCode)
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1000, ok.Load()+full.Load())
	require.Positive(t, ok.Load())
	eventually(t, func() bool { return s.srv.Stats().Connections == 0 && s.h.muxers.count() == 0 })
}

// Close of the Server ends all clients.
func TestCloseEndsClients(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	a, b := s.get("/live/"+name+".flv"), s.get("/live/"+name+".mp4")
	require.NoError(t, s.srv.Close())
	io.ReadAll(a.Body)
	_, err := io.ReadAll(b.Body)
	require.NoError(t, err)
	status, text := s.ask(http.MethodGet, "/live/"+name+".flv", nil)
	require.Equal(t, 503, status)
	require.Equal(t, "The server is shutting down.", text)
}
