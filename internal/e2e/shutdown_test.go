package e2e

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// Data that publishers sent before Shutdown is forwarded even if it is still in the
// sockets: with a merge window that is a whole window.
func TestShutdownForwardsWhatHasArrived(t *testing.T) {
	for _, window := range []time.Duration{-1, 50 * time.Millisecond, 2 * time.Second} {
		for _, grace := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprint(window, " ", grace), func(t *testing.T) {
				const streams, frames = 4, 30
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				d := forwardtest.NewDestination()
				defer d.Close()
				s := newServer(t, forward.Config{MergeWindow: window, PublishGrace: grace, Resolver: forward.ResolverFunc(func(_ context.Context, req *forward.Request) ([]forward.Destination, error) {
					return []forward.Destination{{URL: d.URL("live/" + req.Stream)}}, nil
				})})
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				var pubs []*forwardtest.Publisher
				for n := range streams {
					p, err := forwardtest.Client{URL: fmt.Sprintf("rtmp://%s/live/%d", l.Addr(), n)}.Publish(ctx)
					require.NoError(t, err)
					defer p.Close()
					pubs = append(pubs, p)
				}
				require.Eventually(t, func() bool {
					for _, src := range s.Sources() {
						if src.Forwarders()[0].Stats().State != forward.StatePublishing {
							return false
						}
					}
					return true
				}, 30*time.Second, time.Millisecond)
				media := forwardtest.Media{ID: 1, KeyframeInterval: time.Second, AudioBitrate: -1}
				for _, p := range pubs {
					require.NoError(t, p.Send(ctx, media.Messages(frames*40*time.Millisecond), 0))
				}
				require.NoError(t, s.Shutdown(ctx))
				require.ErrorIs(t, <-served, forward.ErrServerClosed)
				for _, sess := range d.Sessions() {
					require.NoError(t, sess.Recorder().WaitFrames(ctx, frames))
				}
			})
		}
	}
}
