package forward_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// 700 connections that have not been accepted begin messages and do not finish them, before or
// after connect. Together they have an eighth of the budget. They do not disturb an accepted
// publisher, which begins large messages all the time, new publishers, and one that waits for
// a hook.
func TestFault36_UnfinishedMessagesOfGuests(t *testing.T) {
	const guests, budget = 700, 256 << 20
	for _, row := range []struct {
		name    string
		connect bool
		parts   int // whole chunks that each sends of a message on 2 chunk streams
	}{
		{"before connect", false, 7 << 10},
		{"after connect", true, 60 << 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			asked, answer := make(chan struct{}), make(chan struct{})
			log := new(logtest.Buffer)
			s := hosttest.NewServer(t, forward.Config{Logger: secretscan.Logger(slog.NewJSONHandler(log, nil)), MemoryBudget: budget, SetupTimeout: time.Minute, Hooks: forward.Hooks{
				OnPublish: func(_ context.Context, r *forward.Request) error {
					if r.Stream == "waits" {
						close(asked)
						<-answer
					}
					return nil
				},
			}})
			addr := hosttest.ServeLoopback(t, s)
			client := func(name string) forwardtest.Client {
				return forwardtest.Client{URL: "rtmp://" + addr + "/live/" + name}
			}
			honest, err := client("honest").Publish(ctx)
			require.NoError(t, err)
			defer honest.Close()
			waited := make(chan error, 1)
			go func() {
				p, err := client("waits").Publish(ctx)
				if err == nil {
					p.Close()
				}
				waited <- err
			}()
			<-asked

			most := 0
			for i := range guests {
				nc, err := net.Dial("tcp", addr)
				require.NoError(t, err)
				defer nc.Close()
				require.NoError(t, rtmp.ClientHandshake(nc, false))
				if row.connect {
					nc.Write(rtmptest.CommandInChunks(128, 0, "connect", 1, map[string]any{"app": "live", "tcUrl": "rtmp://server/live"}))
				}
				nc.Write(chunk.AppendControl(nil, chunk.TypeSetChunkSize, 1024))
				for _, typ := range []uint8{chunk.TypeVideo, chunk.TypeData} {
					m := chunk.Append(nil, chunk.Header{Type: typ}, make([]byte, row.parts+1), 1024)
					nc.Write(m[:len(m)-2]) // the connection may already be closed
				}
				if i%20 == 0 {
					body := append(rtmptest.Frame(i == 0, i), make([]byte, 1<<20)...)
					require.NoError(t, honest.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Timestamp: uint32(i), Payload: body}))
					p, err := client(fmt.Sprintf("new%d", i)).Publish(ctx)
					require.NoError(t, err)
					p.Close()
				}
				most = max(most, s.GuestMemory())
			}
			require.LessOrEqual(t, most, budget/8)
			require.Greater(t, most, min(guests*2*row.parts, budget/8)/2, "they are counted")
			close(answer)
			require.NoError(t, <-waited)
			require.NotNil(t, s.Source("live/honest"))
			select {
			case <-honest.Done():
				t.Fatal("the honest publisher was ended")
			default:
			}
			if most > budget/16 {
				said := 0
				for _, e := range log.Entries(t, "connection ended") {
					if e["err"] == forward.ErrEvicted.Error() {
						said++
					}
				}
				require.Positive(t, said, "the log says so")
			}
			t.Logf("at most %d KiB held by %d guests", most>>10, guests)
		})
	}
}
