package e2e

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// A subscriber in OnSource gets the stream from its first message, even without GOP
// cache, and before the publish is answered.
func TestOnSource(t *testing.T) {
	var live []*forward.Source
	var first []forward.Message
	accepted := false
	inBubble(t, forward.Config{NoGOPCache: true, Takeover: true, Hooks: forward.Hooks{
		OnPublish: func(context.Context, *forward.Request) error { accepted = true; return nil },
		OnSource: func(src *forward.Source) {
			require.True(t, accepted)
			live = append(live, src)
			sub := src.Subscribe(context.Background())
			go func() {
				for range 3 {
					if m, err := sub.Next(); err == nil {
						first = append(first, m)
					}
				}
				sub.Close()
			}()
		},
	}}, func(b *bubble) {
		pub := b.Publish("live/s")
		require.Equal(b, []*forward.Source{b.Server.Source("live/s")}, live)
		messages := steady.Messages(2 * time.Second)
		require.NoError(b, pub.Send(b.Ctx, messages, 1))
		synctest.Wait()
		n := 0
		for m := range messages {
			if n == len(first) {
				break
			}
			require.True(b, bytes.HasSuffix(m.Payload, first[n].Payload), "equal except for @setDataFrame")
			n++
		}
		require.Equal(b, 3, n)

		next := b.Publish("live/s")
		require.NoError(b, next.Send(b.Ctx, other.Messages(time.Second), 1))
		require.Len(b, live, 1, "the stream goes on")
		require.NoError(b, next.Unpublish())
		<-live[0].Done()
		b.Publish("live/s")
		require.Len(b, live, 2)
	})
}

// Shutdown sends the rest, Close does not, and both wait.
func TestEndsOfASource(t *testing.T) {
	for name, row := range map[string]struct {
		end   func(b *bubble, src *forward.Source) error
		whole bool
		err   error
	}{
		"Shutdown": {func(b *bubble, src *forward.Source) error { return src.Shutdown(b.Ctx) }, true, nil},
		"Shutdown without time": {func(b *bubble, src *forward.Source) error {
			ctx, cancel := context.WithCancel(b.Ctx)
			cancel()
			return src.Shutdown(ctx)
		}, true, context.Canceled},
		"Close":                  {func(_ *bubble, src *forward.Source) error { return src.Close() }, false, nil},
		"Close of the Forwarder": {func(_ *bubble, src *forward.Source) error { return src.Forwarders()[0].Close() }, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), DrainTimeout: time.Minute}, func(b *bubble) {
				d := b.Destination("a:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 200_000}}})
				p := b.Publish("live/s")
				s := b.Published(d, 1)
				src := b.Server.Source("live/s")
				f := src.Forwarders()[0]
				require.NoError(b, p.Send(b.Ctx, bitrate(4_000_000).Messages(2*time.Second), 0))
				synctest.Wait()
				began := time.Now()
				require.ErrorIs(b, row.end(b, src), row.err)
				if row.err == nil {
					<-f.Done()
				}
				if !row.whole {
					require.Zero(b, time.Since(began))
					require.Empty(b, src.Forwarders())
					return
				}
				<-src.Done()
				require.Greater(b, time.Since(began), 2*time.Second)
				require.NoError(b, s.Recorder().WaitFrames(b.Ctx, 50))
				<-p.Done()
			})
		})
	}
}
