package upstream_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// world is a target, and the servers that it leads to.
type world struct {
	*testing.T
	net    forwardtest.Network
	target *upstream.Target
	steps  []upstream.Op
	mu     sync.Mutex
}

func inWorld(t *testing.T, scripts []forwardtest.Script, do func(w *world, d *forwardtest.Destination)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		d := w.net.NewDestination("a.example:1935", scripts...)
		defer d.Close()
		ep, err := endpoint.Spec{URL: "rtmp://a.example/live/key"}.Parse()
		require.NoError(t, err)
		w.target = &upstream.Target{
			Endpoint: ep, ChunkSize: 4096,
			DialTimeout: 5 * time.Second, SetupTimeout: 10 * time.Second, PublishTimeout: 35 * time.Second, WriteTimeout: 10 * time.Second,
			Dial: func(ctx context.Context, at endpoint.Endpoint) (net.Conn, error) {
				return w.net.Dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port))
			},
			Redirected: func(_ endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
				return endpoint.Spec{URL: ref, StreamKey: "key"}.Parse()
			},
			Limits: chunk.Limits{Media: 64 << 10, Command: 64 << 10, Partial: 64 << 10, Streams: 16, TinySize: 64 << 10},
			Memory: gop.NewBudget(1 << 20),
			Log:    slog.New(slog.DiscardHandler),
		}
		do(w, d)
	})
}

// open opens a connection, and says how long that took.
func (w *world) open(ctx context.Context) (*upstream.Link, *upstream.Error, time.Duration) {
	began := time.Now()
	l, err := w.target.Open(ctx, w.target.Endpoint, upstream.Session{
		Begins: func(op upstream.Op) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.steps = append(w.steps, op)
		},
		Ended:      func() bool { return false },
		Properties: func(endpoint.Endpoint) amf.Object { return nil },
		Sender:     func(*fanout.Sender) {},
		Reconnect:  func(*upstream.Link, string) {},
	})
	return l, err, time.Since(began)
}

func TestOpen(t *testing.T) {
	inWorld(t, nil, func(w *world, d *forwardtest.Destination) {
		l, err, _ := w.open(w.Context())
		require.Nil(w, err)
		require.Equal(w, []upstream.Op{upstream.OpDial, upstream.OpHandshake}, w.steps)
		require.Equal(w, 4096, l.ChunkSize)
		require.Equal(w, w.target.Endpoint, l.At)
		require.NotZero(w, l.Client.StreamID())
		l.Close()
		synctest.Wait()
		require.Len(w, d.Sessions(), 1)
		require.Error(w, l.Client.Watch(nil))
	})
}

// The connection ends with the context of Open, during the set-up and after it.
func TestLinkEndsWithContext(t *testing.T) {
	inWorld(t, nil, func(w *world, _ *forwardtest.Destination) {
		ctx, cancel := context.WithCancel(w.Context())
		l, err, _ := w.open(ctx)
		require.Nil(w, err)
		cancel()
		require.Error(w, l.Client.Watch(nil))
		l.Close()
	})
	silent := []forwardtest.Script{{Steps: map[string]forwardtest.Step{"publish": {Silent: true}}}}
	inWorld(t, silent, func(w *world, _ *forwardtest.Destination) {
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err, took := w.open(ctx)
		require.NotNil(w, err)
		require.Equal(w, time.Second, took)
	})
}

func TestEachStepHasItsTime(t *testing.T) {
	for _, row := range []struct {
		step string
		op   upstream.Op
		took time.Duration
	}{
		{"handshake", upstream.OpHandshake, 5 * time.Second},
		{"connect", upstream.OpConnect, 5 * time.Second},
		{"createStream", upstream.OpCreateStream, 35 * time.Second},
		{"publish", upstream.OpPublish, 35 * time.Second},
	} {
		t.Run(row.step, func(t *testing.T) {
			silent := []forwardtest.Script{{Steps: map[string]forwardtest.Step{row.step: {Silent: true}}}}
			inWorld(t, silent, func(w *world, _ *forwardtest.Destination) {
				_, err, took := w.open(w.Context())
				require.NotNil(w, err)
				require.Equal(w, row.op, err.Op)
				require.Equal(w, row.took, took)
				require.True(w, err.Timeout())
				require.Contains(w, err.Error(), "no answer within "+row.took.String())
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		step string
		op   upstream.Op
		code string
	}{
		{"connect", upstream.OpConnect, "NetConnection.Connect.Rejected"},
		{"publish", upstream.OpPublish, "NetStream.Publish.BadName"},
	} {
		t.Run(row.step, func(t *testing.T) {
			refuses := []forwardtest.Script{{Steps: map[string]forwardtest.Step{row.step: {Refuse: row.code}}}}
			inWorld(t, refuses, func(w *world, d *forwardtest.Destination) {
				_, err, _ := w.open(w.Context())
				require.NotNil(w, err)
				require.Equal(w, row.op, err.Op)
				require.Equal(w, row.code, err.Code)
				require.Len(w, d.Sessions(), 1)
			})
		})
	}
}

func TestDialErrors(t *testing.T) {
	for name, row := range map[string]struct {
		err error
		op  upstream.Op
	}{
		"refused":      {errors.New("connection refused"), upstream.OpDial},
		"no such host": {&net.DNSError{Err: "no such host", Name: "a.example"}, upstream.OpResolve},
		"neither":      {nil, upstream.OpDial},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world, _ *forwardtest.Destination) {
				w.target.Dial = func(context.Context, endpoint.Endpoint) (net.Conn, error) { return nil, row.err }
				_, err, _ := w.open(w.Context())
				require.NotNil(w, err)
				require.Equal(w, row.op, err.Op)
				require.Equal(w, []upstream.Op{upstream.OpDial}, w.steps)
				if row.err != nil {
					require.ErrorIs(w, err, row.err)
				}
			})
		})
	}
}

// A target may be connected to while another connection to it is being made.
func TestOpenIsSafeForConcurrentUse(t *testing.T) {
	inWorld(t, nil, func(w *world, d *forwardtest.Destination) {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if l, err, _ := w.open(w.Context()); err == nil {
					l.Close()
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		require.NotEmpty(w, d.Sessions())
	})
}
