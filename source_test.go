package forward

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What subscribes in OnSource gets the stream from its first message, with no GOP
// kept, and before the publisher knows that it may begin.
func TestOnSource(t *testing.T) {
	var live []*Source
	var first []Message
	accepted := false
	inBubble(t, Config{NoGOPCache: true, Takeover: true, Hooks: Hooks{
		OnPublish: func(context.Context, *PublishRequest) error { accepted = true; return nil },
		OnSource: func(src *Source) {
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
		pub := b.publish("live/s")
		require.Equal(b, []*Source{b.srv.Source("live/s")}, live)
		messages := steady.Messages(2 * time.Second)
		require.NoError(b, pub.Send(b.ctx, messages, 1))
		synctest.Wait()
		n := 0
		for m := range messages {
			if n == len(first) {
				break
			}
			require.True(b, bytes.HasSuffix(m.Payload, first[n].Payload), "but for @setDataFrame")
			n++
		}
		require.Equal(b, 3, n)

		next := b.publish("live/s")
		require.NoError(b, next.Send(b.ctx, other.Messages(time.Second), 1))
		require.Len(b, live, 1, "the stream goes on")
		require.NoError(b, next.Unpublish())
		<-live[0].Done()
		b.publish("live/s")
		require.Len(b, live, 2)
	})
}
