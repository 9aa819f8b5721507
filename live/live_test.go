package live

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/flv"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const (
	canary = secretscan.Canary
	name   = "cam-" + canary // of a stream
)

// site is a forward.Server and an HTTP server with its streams.
type site struct {
	t    *testing.T
	srv  *forward.Server
	h    *Handlers
	http *httptest.Server
}

func newSite(t *testing.T, cfg forward.Config, o Options) *site {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = secretscan.Quiet
	}
	srv := forward.NewServer(cfg)
	leaktest.Track(t, srv)
	h := New(srv, o)
	mux := http.NewServeMux()
	mux.Handle("/", h.Players())
	mux.Handle("/sources/", h.Operators())
	s := &site{t: t, srv: srv, h: h, http: httptest.NewServer(mux)}
	t.Cleanup(func() {
		srv.Close()
		s.http.Close()
	})
	return s
}

// publish publishes live/name.
func (s *site) publish() *forward.Publisher {
	s.t.Helper()
	p, err := s.srv.Publish(s.t.Context(), forward.Request{App: "live", Stream: name})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { p.Close() })
	return p
}

// get makes a request, whose body the end of the test closes.
func (s *site) get(path string) *http.Response {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.http.URL+path, nil)
	require.NoError(s.t, err)
	resp, err := s.http.Client().Do(r)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { resp.Body.Close() })
	secretscan.Check(s.t.Name(), resp.Header)
	return resp
}

// The bodies of messages in form.
var (
	metadata  = []byte("\x02\x00\x0aonMetaData\x03\x00\x00\x09")
	avcHeader = []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff}
	aacHeader = []byte{0xaf, 0, 0x12, 0x10}
)

func keyframe(n int) []byte { return append([]byte{0x17, 1, 0, 0, 0}, make([]byte, n)...) }
func inter(n int) []byte    { return append([]byte{0x27, 1, 0, 0, 0}, make([]byte, n)...) }
func sound(n int) []byte    { return append([]byte{0xaf, 1}, make([]byte, n)...) }

func write(t *testing.T, p *forward.Publisher, typ uint8, ms uint32, body []byte) {
	t.Helper()
	require.NoError(t, p.WriteTag(typ, ms, body))
}

func begin(t *testing.T, p *forward.Publisher) {
	write(t, p, forward.TagData, 0, metadata)
	write(t, p, forward.TagVideo, 0, avcHeader)
	write(t, p, forward.TagAudio, 0, aacHeader)
}

// next reads messages and returns them as texts.
func next(t *testing.T, r *flv.Reader, n int) (out []string) {
	t.Helper()
	for range n {
		m, err := r.Next()
		require.NoError(t, err)
		out = append(out, fmt.Sprintf("%d %d %x %d", m.Type, m.Timestamp, m.Payload[0], len(m.Payload)))
	}
	return out
}

func TestFLVBeginsWithTheKeyframeAndIsLive(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	begin(t, p)
	write(t, p, forward.TagVideo, 1000, keyframe(100))
	write(t, p, forward.TagVideo, 2000, keyframe(200_000)) // of several chunks
	write(t, p, forward.TagAudio, 2001, sound(7))

	resp := s.get("/live/" + name + ".flv")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "video/x-flv", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	body := flv.NewReader(bufio.NewReader(resp.Body))
	want := []string{"18 0 2 17", "9 2000 17 10", "8 2000 af 4", "9 2000 17 200005", "8 2001 af 9"}
	require.Equal(t, want, next(t, body, 5))
	for i := range 10 {
		at := uint32(2040 + 40*i)
		write(t, p, forward.TagVideo, at, inter(i))
		require.Equal(t, []string{fmt.Sprintf("9 %d 27 %d", at, 5+i)}, next(t, body, 1))
	}
	require.Equal(t, 1, p.Source().Stats().Players)
	require.Equal(t, 1, s.srv.Stats().Players)
	require.Equal(t, 1, s.srv.Stats().Connections)
	require.NoError(t, p.Close())
	_, err := body.Next()
	require.ErrorIs(t, err, io.EOF)
	eventually(t, func() bool { return s.srv.Stats().Connections == 0 && s.srv.Stats().Players == 0 })
}

// eventually waits for what is about to be.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 10*time.Second, time.Millisecond)
}
