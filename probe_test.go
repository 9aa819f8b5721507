package forward_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func probed() forward.Destination {
	return forward.Destination{URL: "rtmp://a.example/live", StreamKey: secretscan.Canary}
}

// silent does not answer publish.
var silent = forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Silent: true}}}

// A destination that receives a stream is not probed: a second publish could end the first.
func TestDestinationThatIsPushedToIsNotProbed(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		d := b.Destination("a.example:1935")
		f, err := b.PublishInProcess("live/s").Source().Forward(probed())
		require.NoError(b, err)
		b.Published(d, 1)
		err = b.Server.Probe(b.Ctx, probed())
		require.ErrorIs(b, err, forward.ErrDuplicate)
		require.EqualError(b, err, "destination rtmp://a.example/live/***: forward: the stream is pushed to this destination already")
		require.Len(b, d.Sessions(), 1)
		require.NoError(b, f.Shutdown(b.Ctx))
		require.NoError(b, b.Server.Probe(b.Ctx, probed()))
	})
}

// A destination whose Forwarder waits for its next attempt is probed.
func TestDestinationThatIsRetriedIsProbed(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		f, err := b.PublishInProcess("live/s").Source().Forward(probed())
		require.NoError(b, err)
		synctest.Wait()
		require.Equal(b, forward.StateWaiting, f.Stats().State)
		b.Destination("a.example:1935")
		require.NoError(b, b.Server.Probe(b.Ctx, probed()))
	})
}

// A Forwarder that begins to connect ends the probe, and publishes after the probe has left.
func TestForwarderEndsProbe(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		d := b.Destination("a.example:1935", silent, forwardtest.Script{})
		result := make(chan error, 1)
		go func() { result <- b.Server.Probe(b.Ctx, probed()) }()
		b.Published(d, 1)
		require.ErrorIs(b, b.Server.Probe(b.Ctx, probed()), forward.ErrDuplicate, "a second probe")
		f, err := b.PublishInProcess("live/s").Source().Forward(probed())
		require.NoError(b, err)
		synctest.Wait()
		require.ErrorIs(b, <-result, forward.ErrDuplicate)
		require.Equal(b, forward.StatePublishing, f.Stats().State)
		require.EqualValues(b, 1, f.Stats().Connects)
	})
}

// The end of the Server ends a probe.
func TestShutdownEndsProbe(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		d := b.Destination("a.example:1935", silent)
		result := make(chan error, 1)
		go func() { result <- b.Server.Probe(b.Ctx, probed()) }()
		b.Published(d, 1)
		began := time.Now()
		require.NoError(b, b.Server.Shutdown(b.Ctx))
		require.ErrorIs(b, <-result, forward.ErrServerClosed)
		require.Zero(b, time.Since(began))
		require.ErrorIs(b, b.Server.Probe(b.Ctx, probed()), forward.ErrServerClosed)
	})
}

// A Server that is its own destination refuses the probe. Another Server receives a publish
// that ends.
func TestProbeOfServers(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		err := b.Server.Probe(b.Ctx, forward.Destination{URL: "rtmp://server/live", StreamKey: secretscan.Canary})
		require.ErrorIs(b, err, forward.ErrLoop)
		var ended []string
		_, published := b.ServeAt("slave:1935", forward.Config{Hooks: forward.Hooks{
			OnUnpublish: func(_ context.Context, req *forward.Request) { ended = append(ended, req.Stream) },
		}})
		require.NoError(b, b.Server.Probe(b.Ctx, forward.Destination{URL: "rtmp://slave/live", StreamKey: secretscan.Canary}))
		synctest.Wait()
		require.Len(b, *published, 1)
		require.Equal(b, []string{secretscan.Canary}, ended)
	})
}

// A refusal right after the acceptance counts.
func TestProbeIsRefusedAfterwards(t *testing.T) {
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		b.Destination("a.example:1935", forwardtest.Script{Steps: map[string]forwardtest.Step{"FCUnpublish": {Do: func(s *forwardtest.Session) {
			s.Status("NetStream.Publish.Rejected", "no such key")
		}}}})
		err := b.Server.Probe(b.Ctx, probed())
		var de *forward.DestinationError
		require.True(b, errors.As(err, &de), "%v", err)
		require.Equal(b, forward.OpRead, de.Op)
		require.Equal(b, "NetStream.Publish.Rejected", de.Code)
	})
}
