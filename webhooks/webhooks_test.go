package webhooks

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/srs"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const (
	canary = secretscan.Canary
	url    = "http://u:" + canary + "@backend/events?t=" + canary
)

// receiver is the backend.
type receiver struct {
	mu     sync.Mutex
	status int // of the answers; 0: 204
	err    error
	hangs  chan struct{} // an answer waits until it is closed
	got    []post
}

type post struct {
	at     time.Time
	header http.Header
	body   []byte
	msg    message
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	p := post{at: time.Now(), header: req.Header, body: body}
	if err := json.Unmarshal(body, &p.msg); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.got = append(r.got, p)
	status, err, hangs := r.status, r.err, r.hangs
	r.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if err != nil {
		return nil, err
	}
	if status == 0 {
		status = http.StatusNoContent
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

func (r *receiver) set(status int, err error, hangs chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status, r.err, r.hangs = status, err, hangs
}

// take returns what has come since the last time.
func (r *receiver) take() []post {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func (r *receiver) client() *http.Client { return &http.Client{Transport: r} }

// types are the types of messages, with what was missed.
func types(posts []post) (out []string) {
	for _, p := range posts {
		s := string(p.msg.Type)
		if p.msg.Missed > 0 {
			s = fmt.Sprint(p.msg.Missed, " missed, ", s)
		}
		out = append(out, s)
	}
	return out
}

// feed is events that a test makes.
type feed chan forward.Event

func (f feed) events(ctx context.Context) func(func(forward.Event) bool) {
	return func(yield func(forward.Event) bool) {
		for {
			select {
			case ev, ok := <-f:
				if !ok || !yield(ev) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// running runs a Sender in virtual time.
func running(t *testing.T, o Options, f func(s *Sender, to feed, ended chan error)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := New(o)
		require.NoError(t, err)
		to, ended := make(feed), make(chan error, 1)
		go func() { ended <- s.Run(ctx, to.events(ctx)) }()
		f(s, to, ended)
		cancel()
		synctest.Wait()
	})
}

// The backend of a Server gets its events, signed with each secret, in their order.
func TestMessagesAreSignedEvents(t *testing.T) {
	const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	const secret = "another secret " + canary
	r := new(receiver)
	hosttest.InBubble(t, forward.Config{MergeWindow: -1}, func(b *hosttest.Bubble) {
		s, err := New(Options{URL: url, Secrets: []forward.Secret{key, secret}, Client: r.client()})
		require.NoError(t, err)
		ended := make(chan error, 1)
		events := b.Server.Events(b.Ctx)
		go func() { ended <- s.Run(b.Ctx, events) }()
		b.Destination("a:1935")
		p := b.Publish("live/" + canary)
		sent := make(chan error, 1)
		go func() { sent <- p.Send(b.Ctx, forwardtest.Media{}.Messages(time.Second), 1) }()
		synctest.Wait()
		_, err = b.Server.Source("live/" + canary).Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.NoError(t, p.Unpublish())
		synctest.Wait()
		b.Server.Close()
		require.NoError(t, <-ended)
		got := r.take()
		require.Equal(t, []string{"publish", "live", "destination", "destination", "destination", "first_keyframe", "destination", "destination", "unpublish"}, types(got))
		ids := make(map[string]bool)
		for i, p := range got {
			require.EqualValues(t, i+1, p.msg.Data.Seq)
			require.Equal(t, p.msg.Type, p.msg.Data.Kind)
			require.True(t, p.msg.Timestamp.Equal(p.msg.Data.Time))
			require.Regexp(t, `^live/#[0-9a-f]{8}$`, p.msg.Data.Stream)
			require.Empty(t, p.msg.Name)
			require.NotContains(t, string(p.body), canary)
			require.Equal(t, "application/json", p.header.Get("Content-Type"))
			id := p.header.Get("webhook-id")
			require.False(t, ids[id])
			ids[id] = true
			first, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
			require.NoError(t, err)
			var want []string
			for _, k := range [][]byte{first, []byte(secret)} {
				mac := hmac.New(sha256.New, k)
				fmt.Fprintf(mac, "%s.%d.%s", id, p.at.Unix(), p.body)
				want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
			}
			require.Equal(t, strings.Join(want, " "), p.header.Get("webhook-signature"))
			require.Equal(t, fmt.Sprint(p.at.Unix()), p.header.Get("webhook-timestamp"))
		}
		last := got[len(got)-1].msg.Data
		require.Equal(t, forward.ReasonUnpublish, last.Reason)
		require.Equal(t, time.Second, last.After.Round(100*time.Millisecond))
		secretscan.Check(t.Name(), secretscan.Prints(s)+secretscan.Prints(*s.sends.Load()))
	})
}

// The names of streams are shown on request.
func TestNames(t *testing.T) {
	r := new(receiver)
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		s, err := New(Options{URL: url, Client: r.client(), Names: true, Kinds: []forward.EventKind{forward.EventPublish, forward.EventPlay}})
		require.NoError(t, err)
		events := b.Server.Events(b.Ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(b.Ctx, events) }()
		b.PublishInProcess("cam")
		b.Play("live/other")
		synctest.Wait()
		b.Server.Close()
		require.NoError(t, <-ended)
		var names []string
		for _, p := range r.take() {
			names = append(names, string(p.msg.Type)+" "+p.msg.Name)
			require.NotContains(t, p.msg.Data.Stream, "cam")
			require.Empty(t, p.header.Get("webhook-signature"), "there is no secret")
		}
		require.Equal(t, []string{"publish live/cam", "play live/other"}, names)
	})
}

// An event without an answer is sent again, as the same message, with growing delays; the
// next ones wait.
func TestEventsAreSentAgain(t *testing.T) {
	var log logtest.Warnings
	for name, fail := range map[string]func(r *receiver){
		"no connection": func(r *receiver) { r.set(0, errors.New("connection refused by "+canary), nil) },
		"status":        func(r *receiver) { r.set(http.StatusServiceUnavailable, nil, nil) },
		"too many":      func(r *receiver) { r.set(http.StatusTooManyRequests, nil, nil) },
		"no answer":     func(r *receiver) { r.set(0, nil, make(chan struct{})) },
	} {
		t.Run(name, func(t *testing.T) {
			r := new(receiver)
			logger := log.Logger()
			if name == "no connection" { // its error is the Client's text
				logger = slog.New(slog.DiscardHandler)
			}
			running(t, Options{URL: url, Client: r.client(), Logger: logger}, func(_ *Sender, to feed, _ chan error) {
				fail(r)
				to <- forward.Event{Kind: forward.EventPublish, Seq: 1}
				to <- forward.Event{Kind: forward.EventUnpublish, Seq: 2}
				time.Sleep(10 * time.Minute)
				r.set(0, nil, nil)
				time.Sleep(2 * time.Minute)
				got := r.take()
				require.Greater(t, len(got), 10)
				require.Less(t, len(got), 50)
				before := time.Duration(0)
				for i, p := range got[:len(got)-1] {
					require.Equal(t, forward.EventPublish, p.msg.Type)
					require.Equal(t, got[0].header.Get("webhook-id"), p.header.Get("webhook-id"))
					require.Equal(t, string(got[0].body), string(p.body))
					if i > 0 {
						d := p.at.Sub(got[i-1].at)
						require.LessOrEqual(t, d, retryMax+defaultTimeout)
						require.Greater(t, d, before/4)
						before = d
					}
				}
				require.Equal(t, forward.EventUnpublish, got[len(got)-1].msg.Type)
				require.Zero(t, got[len(got)-1].msg.Missed)
			})
			if name == "status" {
				require.Equal(t, []string{
					`level=WARN msg="webhook failed" url=http://***@backend/events?*** err="status 503"`,
				}, log.Take("failed")[:1])
			}
			log.Take("")
		})
	}
}

// What the receiver refuses five times is dropped, and the next message tells of it.
func TestRefusedEventsAreDropped(t *testing.T) {
	r := new(receiver)
	running(t, Options{URL: url, Client: r.client(), Logger: secretscan.Quiet}, func(_ *Sender, to feed, _ chan error) {
		r.set(http.StatusBadRequest, nil, nil)
		to <- forward.Event{Kind: forward.EventPublish}
		time.Sleep(time.Minute)
		require.Equal(t, []string{"publish", "publish", "publish", "publish", "publish"}, types(r.take()))
		r.set(0, nil, nil)
		to <- forward.Event{Kind: forward.EventLive}
		to <- forward.Event{Kind: forward.EventUnpublish}
		synctest.Wait()
		require.Equal(t, []string{"1 missed, live", "unpublish"}, types(r.take()))
	})
}

// A receiver that hangs costs the oldest events. The next one says how many.
func TestOldestEventsAreDropped(t *testing.T) {
	r := new(receiver)
	running(t, Options{URL: url, Client: r.client(), Logger: secretscan.Quiet, Pending: 4, Timeout: time.Hour}, func(_ *Sender, to feed, ended chan error) {
		hangs := make(chan struct{})
		r.set(0, nil, hangs)
		for range 100 {
			to <- forward.Event{Kind: forward.EventPlay}
			synctest.Wait()
		}
		to <- forward.Event{Kind: forward.EventMissed, Count: 7}
		to <- forward.Event{Kind: forward.EventStop}
		synctest.Wait()
		r.set(0, nil, nil)
		close(hangs)
		close(to)
		require.NoError(t, <-ended)
		// One was under way, and three waited.
		require.Equal(t, []string{"play", "97 missed, play", "play", "7 missed, stop"}, types(r.take()))
	})
}

// Reload takes effect at the next attempt.
func TestReload(t *testing.T) {
	old, now := new(receiver), new(receiver)
	running(t, Options{URL: url, Client: old.client(), Logger: secretscan.Quiet}, func(s *Sender, to feed, _ chan error) {
		old.set(0, errors.New("down"), nil)
		to <- forward.Event{Kind: forward.EventPublish}
		time.Sleep(time.Minute)
		require.NotEmpty(t, old.take())
		require.Error(t, s.Reload(Options{URL: "nowhere"}))
		require.NoError(t, s.Reload(Options{URL: url, Client: now.client(), Kinds: []forward.EventKind{forward.EventUnpublish}}))
		synctest.Wait()
		require.Empty(t, old.take())
		require.Equal(t, []string{"publish"}, types(now.take()))
		to <- forward.Event{Kind: forward.EventLive}
		to <- forward.Event{Kind: forward.EventUnpublish}
		synctest.Wait()
		require.Equal(t, []string{"unpublish"}, types(now.take()))
	})
}

// The end of ctx ends an attempt, a pause, and the wait for events.
func TestContext(t *testing.T) {
	for name, fail := range map[string]func(r *receiver){
		"idle":    func(*receiver) {},
		"hangs":   func(r *receiver) { r.set(0, nil, make(chan struct{})) },
		"pausing": func(r *receiver) { r.set(0, errors.New("down"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(receiver)
				fail(r)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s, err := New(Options{URL: url, Client: r.client(), Logger: secretscan.Quiet})
				require.NoError(t, err)
				to, ended := make(feed), make(chan error, 1)
				go func() { ended <- s.Run(ctx, to.events(ctx)) }()
				to <- forward.Event{Kind: forward.EventPublish}
				synctest.Wait()
				began := time.Now()
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
				require.Zero(t, time.Since(began))
			})
		})
	}
}

// A configuration file takes the same kinds.
func TestKindsOfAFile(t *testing.T) {
	var all []string
	for _, k := range kinds {
		all = append(all, string(k))
	}
	f, err := srs.ParseConfig("x.conf", []byte("webhooks { url "+url+"; secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw; events "+strings.Join(all, " ")+"; }"))
	require.NoError(t, err)
	require.Equal(t, kinds, f.Webhooks.Kinds)
	_, err = srs.ParseConfig("x.conf", []byte("webhooks { events missed; }"))
	require.ErrorContains(t, err, `found "missed"`)
}

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{
		"webhooks: URL: bad backend URL: expected http:// or https://": {URL: "ftp://" + canary},
		"webhooks: secret 2: bad Secret: no base64 after whsec_":       {URL: url, Secrets: []forward.Secret{"a", "whsec_" + canary + "!"}},
		"webhooks: secret 1: it is empty":                              {URL: url, Secrets: []forward.Secret{""}},
		`webhooks: "missed": expected one of [publish live codec `:     {URL: url, Kinds: []forward.EventKind{forward.EventMissed}},
	} {
		_, err := New(o)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), canary)
	}
}

// The default client speaks TLS with the given roots, keeps its connection, and gives it
// back at the end.
func TestTLS(t *testing.T) {
	var mu sync.Mutex
	conns := make(map[string]int)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		conns[r.RemoteAddr]++
		io.WriteString(w, strings.Repeat("x", 1000))
	}))
	defer srv.Close()
	s, err := New(Options{URL: srv.URL, TLSConfig: srv.Client().Transport.(*http.Transport).TLSClientConfig, Logger: secretscan.Quiet})
	require.NoError(t, err)
	require.NoError(t, s.Run(t.Context(), func(yield func(forward.Event) bool) {
		for range 10 {
			yield(forward.Event{Kind: forward.EventPublish})
		}
	}))
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, conns, 1)
	for _, n := range conns {
		require.Equal(t, 10, n)
	}
}
