package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

func nulls(n int) any { return make(amf.StrictArray, n) }

func keys(n int) any {
	o := amf.Object{}
	for i := range n {
		o = append(o, amf.Property{Key: fmt.Sprint(i), Value: nil})
	}
	return o
}

// Limits of what a peer may send. At a limit the peer is served; above it, it is
// immediately disconnected with the reason. Other clients are not affected.
func TestLimitsOfMessages(t *testing.T) {
	const (
		handshaken = "connect"      // nothing was sent after the handshake
		connected  = "createStream" // connect was answered
		publishing = ""
	)
	small := forward.Config{Limits: forward.Limits{MediaSize: 100_000, DataSize: 70_000, PartialSize: 300_000}}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	rows := []struct {
		name  string
		cfg   forward.Config
		stage string
		send  []byte
		want  error // nil: it is still served
	}{
		{"command of 64 KiB", forward.Config{}, connected, rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 4096), nil},
		{"command above 64 KiB", forward.Config{}, connected, rtmptest.FirstChunk(3, chunk.TypeSharedObject, 0, 64<<10+1, nil), chunk.ErrLimit},
		{"media of 64 KiB before accept", forward.Config{}, connected, rtmptest.Zeros(chunk.TypeVideo, 1, 64<<10, 4096), nil},
		{"media above 64 KiB before accept", forward.Config{}, connected, rtmptest.FirstChunk(6, chunk.TypeVideo, 1, 64<<10+1, nil), chunk.ErrLimit},
		{"aggregate above 64 KiB before accept", forward.Config{}, connected, rtmptest.FirstChunk(6, chunk.TypeAggregate, 1, 64<<10+1, nil), chunk.ErrLimit},
		{"media of MediaSize", small, publishing, rtmptest.Zeros(chunk.TypeVideo, 1, 100_000, 4096), nil},
		{"media above MediaSize", small, publishing, rtmptest.FirstChunk(6, chunk.TypeVideo, 1, 100_001, nil), chunk.ErrLimit},
		{"data of DataSize", small, publishing, rtmptest.Zeros(chunk.TypeData, 1, 70_000, 4096), nil},
		{"data above DataSize", small, publishing, rtmptest.FirstChunk(5, chunk.TypeData, 1, 70_001, nil), chunk.ErrLimit},
		{"media of 8 MiB", forward.Config{}, publishing, rtmptest.Zeros(chunk.TypeVideo, 1, 8<<20, 4096), nil},
		{"media above 8 MiB", forward.Config{}, publishing, rtmptest.FirstChunk(6, chunk.TypeVideo, 1, 8<<20+1, nil), chunk.ErrLimit},
		{"data of 256 KiB", forward.Config{}, publishing, rtmptest.Zeros(chunk.TypeData, 1, 256<<10, 4096), nil},
		{"data above 256 KiB", forward.Config{}, publishing, rtmptest.FirstChunk(5, chunk.TypeData, 1, 256<<10+1, nil), chunk.ErrLimit},

		{"16 KiB before connect", forward.Config{}, handshaken, rtmptest.Zeros(chunk.TypeSharedObject, 0, 16<<10, 128), nil},
		{"more before connect", forward.Config{}, handshaken, rtmptest.Zeros(chunk.TypeSharedObject, 0, 16<<10+1, 128), chunk.ErrLimit},
		{"16 KiB in parts before connect", forward.Config{}, handshaken,
			join(rtmptest.SetChunkSize(8000), rtmptest.Unfinished(2, 8<<10, 8000, chunk.TypeSharedObject)), nil},
		{"more in parts before connect", forward.Config{}, handshaken,
			join(rtmptest.SetChunkSize(8000), rtmptest.Unfinished(2, 8<<10, 8000, chunk.TypeSharedObject), rtmptest.FirstChunk(20, chunk.TypeSharedObject, 0, 1, nil)), chunk.ErrLimit},
		{"128 KiB in parts before accept", forward.Config{}, connected,
			join(rtmptest.SetChunkSize(60000), rtmptest.Unfinished(2, 64<<10, 60000, chunk.TypeSharedObject)), nil},
		{"more in parts before accept", forward.Config{}, connected,
			join(rtmptest.SetChunkSize(60000), rtmptest.Unfinished(2, 64<<10, 60000, chunk.TypeSharedObject), rtmptest.FirstChunk(20, chunk.TypeSharedObject, 0, 1, nil)), chunk.ErrLimit},
		{"PartialSize in parts", small, publishing,
			join(rtmptest.SetChunkSize(60000), rtmptest.Unfinished(3, 100_000, 60000, chunk.TypeVideo)), nil},
		{"more than PartialSize in parts", small, publishing,
			join(rtmptest.SetChunkSize(60000), rtmptest.Unfinished(6, 100_000, 60000, chunk.TypeVideo)), chunk.ErrLimit},

		{"16 chunk streams before accept", forward.Config{}, handshaken, rtmptest.OnChunkStreams(3, 16), nil},
		{"17 chunk streams before accept", forward.Config{}, handshaken, rtmptest.OnChunkStreams(3, 17), chunk.ErrLimit},
		{"chunk stream 65599", forward.Config{}, handshaken, rtmptest.OnChunkStreams(65599, 1), nil},
		// The commands were on two.
		{"32 chunk streams", forward.Config{}, publishing, rtmptest.OnChunkStreams(100, 30), nil},
		{"33 chunk streams", forward.Config{}, publishing, rtmptest.OnChunkStreams(100, 31), chunk.ErrLimit},
		{"6 of ChunkStreams 8", forward.Config{Limits: forward.Limits{ChunkStreams: 8}}, publishing, rtmptest.OnChunkStreams(100, 6), nil},
		{"7 of ChunkStreams 8", forward.Config{Limits: forward.Limits{ChunkStreams: 8}}, publishing, rtmptest.OnChunkStreams(100, 7), chunk.ErrLimit},

		{"chunk size 0", forward.Config{}, handshaken, rtmptest.SetChunkSize(0), chunk.ErrProtocol},
		{"chunk size 1", forward.Config{}, handshaken, rtmptest.SetChunkSize(1), nil},
		{"chunk size 2^31-1", forward.Config{}, handshaken, join(rtmptest.SetChunkSize(1<<31-1), rtmptest.Zeros(chunk.TypeSharedObject, 0, 1000, 1000)), nil},
		{"chunk size 2^31", forward.Config{}, handshaken, rtmptest.SetChunkSize(1 << 31), chunk.ErrProtocol},
		{"64 KiB in chunks of 127", forward.Config{}, connected, join(rtmptest.SetChunkSize(127), rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 127)), nil},
		{"64 KiB in chunks of 1", forward.Config{}, connected, join(rtmptest.SetChunkSize(1), rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 1)), nil},
		{"more in chunks of 127", forward.Config{}, connected,
			join(rtmptest.SetChunkSize(127), rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 127), rtmptest.FirstChunk(3, chunk.TypeAck, 0, 4, make([]byte, 4))), chunk.ErrLimit},
		{"more in chunks of 128", forward.Config{}, connected,
			join(rtmptest.SetChunkSize(128), rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 128), rtmptest.FirstChunk(3, chunk.TypeAck, 0, 4, make([]byte, 4))), nil},

		{"aggregate of 1024", forward.Config{}, publishing, rtmptest.Aggregate(maxAggregate, 4096), nil},
		{"aggregate of 1025", forward.Config{}, publishing, rtmptest.Aggregate(maxAggregate+1, 4096), chunk.ErrLimit},

		{"AMF 16 deep", forward.Config{}, connected, rtmptest.NestedArrays(16), nil},
		{"AMF 17 deep", forward.Config{}, connected, rtmptest.NestedArrays(17), amf.ErrTooDeep},
		// The name, the transaction id and the array count too.
		{"AMF 1024 values", forward.Config{}, connected, rtmptest.CommandInChunks(4096, 0, "x", 0, nulls(1021)), nil},
		{"AMF 1025 values", forward.Config{}, connected, rtmptest.CommandInChunks(4096, 0, "x", 0, nulls(1022)), amf.ErrLimit},
		{"AMF 256 keys", forward.Config{}, connected, rtmptest.CommandInChunks(4096, 0, "x", 0, keys(256)), nil},
		{"AMF 257 keys", forward.Config{}, connected, rtmptest.CommandInChunks(4096, 0, "x", 0, keys(257)), amf.ErrLimit},
		{"AMF string of 64 KiB", forward.Config{}, publishing, rtmptest.CommandInChunks(4096, 0, "x", 0, strings.Repeat("s", 64<<10)), nil},
		{"AMF longer string", forward.Config{}, publishing, rtmptest.CommandInChunks(4096, 0, "x", 0, strings.Repeat("s", 64<<10+1)), amf.ErrLimit},
		{"AMF array of 2^31", forward.Config{}, connected,
			chunk.Append(nil, chunk.Header{Type: chunk.TypeCommand}, append(rtmptest.AMF("x", 0), 10, 0x80, 0, 0, 0), 4096), amf.ErrMalformed},

		// connect was one.
		{"32 commands before accept", forward.Config{}, connected, bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "x", 0, nil), 31), nil},
		{"33 commands before accept", forward.Config{}, connected, bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "x", 0, nil), 32), chunk.ErrLimit},
		{"100 commands after accept", forward.Config{}, publishing, bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "x", 0, nil), 100), nil},

		{"8 message streams", forward.Config{}, connected, bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "createStream", 2, nil), 8), nil},
		{"createStream for a 9th", forward.Config{}, connected, bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "createStream", 2, nil), 9), nil}, // _error
		{"9th message stream", forward.Config{}, connected, join(bytes.Repeat(rtmptest.CommandInChunks(4096, 0, "createStream", 2, nil), 8),
			rtmptest.CommandInChunks(4096, 9, "publish", 3, nil, "s", "live")), chunk.ErrLimit},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, row.cfg, func(b *bubble) {
				others := b.Steady()
				c, result := b.Served("live/hostile")
				c.Bare, c.StopBefore = true, row.stage
				p, err := c.Publish(b.Ctx)
				require.NoError(b, err)
				defer p.Close()
				p.Write(row.send)
				time.Sleep(time.Second) // less than any timeout
				synctest.Wait()
				if row.want == nil {
					require.Empty(b, result, "is served on")
				} else {
					require.ErrorIs(b, <-result, row.want)
				}
				require.Zero(b, others.Check())
			})
		})
	}
}

// Timeouts of a peer, exact in virtual time. Single bytes do not count as progress.
func TestTimeoutsOfPeers(t *testing.T) {
	drip := func(b *bubble, nc net.Conn, p []byte) {
		for _, c := range p {
			if _, err := nc.Write([]byte{c}); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	ping := chunk.AppendUserControl(nil, 6, 0)
	keepAlive := func(p *forwardtest.Publisher) {
		for p.Err() == nil {
			p.Write(ping)
			time.Sleep(200 * time.Millisecond)
		}
	}
	// after is how long the peer was served; 0: it still is after a minute.
	rows := []struct {
		name  string
		cfg   forward.Config
		do    func(b *bubble, c forwardtest.Client)
		after time.Duration
		want  error
		early time.Duration // it may end this much earlier
	}{
		{"silent before the handshake", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.Dial(b.Ctx, "", "")
		}, 5 * time.Second, os.ErrDeadlineExceeded, 0},
		{"handshake a byte at a time", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			nc, _ := c.Dial(b.Ctx, "", "")
			go drip(b, nc, append([]byte{3}, make([]byte, 1536)...))
		}, 5 * time.Second, os.ErrDeadlineExceeded, 0},
		{"HandshakeTimeout", forward.Config{HandshakeTimeout: time.Second}, func(b *bubble, c forwardtest.Client) {
			c.Dial(b.Ctx, "", "")
		}, time.Second, os.ErrDeadlineExceeded, 0},
		{"no HandshakeTimeout", forward.Config{HandshakeTimeout: -1}, func(b *bubble, c forwardtest.Client) {
			c.Dial(b.Ctx, "", "")
		}, 0, nil, 0},
		{"silent after the handshake", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.StopBefore = "connect"
			c.Publish(b.Ctx)
		}, 10 * time.Second, os.ErrDeadlineExceeded, 0},
		{"pings after the handshake", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.StopBefore = "connect"
			p, _ := c.Publish(b.Ctx)
			go keepAlive(p)
		}, 10 * time.Second, os.ErrDeadlineExceeded, 0},
		{"handshake of 4 s, then silent", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			dial := c.Dial
			c.Dial = forwardtest.FaultDial(dial, forwardtest.Faults{Write: forwardtest.Fault{Rate: 1537 * 2 / 4}})
			c.StopBefore = "connect"
			c.Publish(b.Ctx)
		}, 10 * time.Second, os.ErrDeadlineExceeded, 0},
		{"silent after createStream", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.StopBefore = "publish"
			c.Publish(b.Ctx)
		}, 10 * time.Second, os.ErrDeadlineExceeded, 0},
		{"SetupTimeout", forward.Config{SetupTimeout: time.Second}, func(b *bubble, c forwardtest.Client) {
			c.StopBefore = "publish"
			c.Publish(b.Ctx)
		}, time.Second, os.ErrDeadlineExceeded, 0},
		{"a hook takes 12 s of the set-up, the client none", forward.Config{Hooks: forward.Hooks{
			OnConnect: func(context.Context, *forward.Request) error { time.Sleep(12 * time.Second); return nil },
		}}, func(b *bubble, c forwardtest.Client) {
			playBadly(b, c)
		}, 0, nil, 0},
		{"a hook takes 12 s of the set-up, then silent", forward.Config{Hooks: forward.Hooks{
			OnConnect: func(context.Context, *forward.Request) error { time.Sleep(12 * time.Second); return nil },
		}}, func(b *bubble, c forwardtest.Client) {
			c.StopBefore = "publish"
			c.Publish(b.Ctx)
		}, 22 * time.Second, os.ErrDeadlineExceeded, 0},
		{"no first media", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			go keepAlive(p)
		}, 15 * time.Second, os.ErrDeadlineExceeded, 0},
		{"no media of a connection that plays, too", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			p.Write(rtmptest.CommandInChunks(4096, 0, "createStream", 7, nil))
			p.Write(rtmptest.CommandInChunks(4096, 2, "play", 8, nil, "other"))
		}, 15 * time.Second, os.ErrDeadlineExceeded, 0},
		{"a message that never ends", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			go drip(b, writerConn{p}, rtmptest.FirstChunk(6, chunk.TypeVideo, 1, 5000, make([]byte, 4096)))
		}, 15 * time.Second, os.ErrDeadlineExceeded, 0},
		{"FirstMediaTimeout", forward.Config{FirstMediaTimeout: time.Second}, func(b *bubble, c forwardtest.Client) {
			c.Publish(b.Ctx)
		}, time.Second, os.ErrDeadlineExceeded, 0},
		{"media stops after 5 s", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			require.NoError(b, p.Send(b.Ctx, steady.Messages(5*time.Second), 1))
			go keepAlive(p)
		}, 15 * time.Second, os.ErrDeadlineExceeded, time.Second},
		{"a message every 7.9 s", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			go func() {
				for i := range uint32(7) {
					time.Sleep(7900 * time.Millisecond)
					p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Timestamp: i * 7900, Payload: rtmptest.Frame(true, int(i))})
				}
			}()
		}, 0, nil, 0},
		{"ReadTimeout below a second", forward.Config{ReadTimeout: 300 * time.Millisecond}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			go p.Send(b.Ctx, steady.Messages(70*time.Second), 1)
		}, 0, nil, 0},
		{"silent after unpublish", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Publish(b.Ctx)
			require.NoError(b, p.Send(b.Ctx, steady.Messages(3*time.Second), 1))
			p.Unpublish()
			go keepAlive(p)
		}, 13 * time.Second, os.ErrDeadlineExceeded, 0},
		{"player that waits", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.Play(b.Ctx, nil)
		}, 0, nil, 0},
		{"silent after the end of play", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			p, _ := c.Play(b.Ctx, nil)
			p.Send(0, "deleteStream", 7, nil, 1)
		}, 10 * time.Second, os.ErrDeadlineExceeded, 0},
		{"player that stops reading", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.URL = "rtmp://server/live/ok"
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Stall: 10_000}})
			playBadly(b, c)
		}, -1, fanout.ErrStalled, 0},
		{"player that reads 1000 bytes a second", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.URL = "rtmp://server/live/ok"
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Rate: 1000}})
			playBadly(b, c)
		}, -1, fanout.ErrStalled, 0},
		{"player that reads half the rate", forward.Config{}, func(b *bubble, c forwardtest.Client) {
			c.URL = "rtmp://server/live/ok"
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Rate: 31_000}})
			playBadly(b, c)
		}, 0, nil, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, row.cfg, func(b *bubble) {
				var others *isolation
				if row.cfg.FirstMediaTimeout == 0 && row.cfg.Hooks.OnConnect == nil {
					others = b.Steady()
				}
				c, result := b.Served("live/hostile")
				var near net.Conn
				dial := c.Dial
				c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					var err error
					near, err = dial(ctx, network, address)
					return near, err
				}
				began := time.Now()
				row.do(b, c)
				defer func() {
					near.Close()
					if row.after == 0 {
						<-result
					}
				}()
				if row.after == 0 {
					time.Sleep(time.Minute - time.Since(began))
					synctest.Wait()
					require.Empty(b, result, "is served on")
				} else {
					require.ErrorIs(b, b.WaitResult(2*time.Minute, result), row.want)
					if row.after > 0 {
						require.InDelta(b, row.after.Seconds(), time.Since(began).Seconds(), row.early.Seconds()+0.1)
					}
				}
				if others != nil {
					require.Zero(b, others.Check())
				}
			})
		})
	}
}

// playBadly plays with c into a Recorder.
func playBadly(b *bubble, c forwardtest.Client) {
	p, err := c.Play(b.Ctx, &forwardtest.Recorder{Gaps: true})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
}

type writerConn struct{ *forwardtest.Publisher }

func (writerConn) LocalAddr() net.Addr              { return nil }
func (writerConn) RemoteAddr() net.Addr             { return nil }
func (writerConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (writerConn) SetDeadline(time.Time) error      { return nil }
func (writerConn) SetReadDeadline(time.Time) error  { return nil }
func (writerConn) SetWriteDeadline(time.Time) error { return nil }

func TestLimitsOfNames(t *testing.T) {
	long := func(n int) string { return strings.Repeat("n", n) }
	for _, row := range []struct {
		what, name string
		ok         bool
	}{
		{"255 bytes", "live/" + long(255), true},
		{"256 bytes", "live/" + long(256), false},
		{"app of 255 bytes", long(255) + "/s", true},
		{"app of 256 bytes", long(256) + "/s", false},
		{"query up to 4 KiB", "live/s?" + long(4094), true},
		{"query above 4 KiB", "live/s?" + long(4095), false},
		{"tcUrl up to 4 KiB", "live?" + long(4096-len("rtmp://server:1935/live?")) + "/s", true},
		{"tcUrl above 4 KiB", "live?" + long(4097-len("rtmp://server:1935/live?")) + "/s", false},
		{"64 KiB", "live/" + long(60<<10), false},
		{"control byte", "live/a\nb", false},
		{"NUL", "live/a\x00", false},
		{"dot dot", "../s", false},
		{"dot", "live/.", false},
		{"backslash", `live/a\b`, false},
		{"empty segment", "live//x/s", false},
		{"not UTF-8", "live/\xff", false},
		{"UTF-8", "live/流", true},
		{"percent-encoding is not decoded", "live/%2e%2e%2f", true},
	} {
		t.Run(row.what, func(t *testing.T) {
			inBubble(t, forward.Config{}, func(b *bubble) {
				others := b.Steady()
				c, _ := b.Served("")
				app, name := endpoint.SplitPath(row.name)
				if i := strings.Index(row.name, "?"); i >= 0 && strings.HasSuffix(row.name, "/s") {
					app, name = row.name[:len(row.name)-2], "s"
				}
				err := connectAndPublish(b, c, app, name)
				if row.ok {
					require.NoError(b, err)
				} else {
					require.Error(b, err)
					require.Contains(b, []string{"NetStream.Publish.BadName", "NetConnection.Connect.InvalidApp"}, forwardtest.RefusalCode(err), err.Error())
					require.NotContains(b, err.Error(), long(20), "the name is not repeated")
				}
				require.Zero(b, others.Check())
			})
		})
	}
}

// connectAndPublish publishes under names that a URL could not contain.
func connectAndPublish(b *bubble, c forwardtest.Client, app, name string) error {
	c.URL, c.StopBefore = "rtmp://server/x/y", "connect"
	p, err := c.Publish(b.Ctx)
	require.NoError(b, err)
	defer p.Close()
	p.Write(rtmptest.Command(0, "connect", 1, amf.Object{{Key: "app", Value: app}, {Key: "tcUrl", Value: "rtmp://server:1935/" + app}}))
	p.Write(rtmptest.Command(0, "createStream", 2, nil))
	p.Write(rtmptest.Command(1, "publish", 3, nil, name, "live"))
	synctest.Wait()
	if commands := p.Commands(); len(commands) > 0 && commands[len(commands)-1].Code() == "NetStream.Publish.Start" {
		return nil
	}
	<-p.Done()
	return p.Err()
}

func TestLimitOfConnections(t *testing.T) {
	inBubble(t, forward.Config{Limits: forward.Limits{Connections: 4}}, func(b *bubble) {
		others := b.Steady() // two connections
		c, first := b.Served("live/a")
		_, err := c.Play(b.Ctx, nil)
		require.NoError(b, err)
		c, second := b.Served("live/a")
		two, err := c.Play(b.Ctx, nil)
		require.NoError(b, err)
		c, third := b.Served("live/a")
		_, err = c.Play(b.Ctx, nil)
		require.Error(b, err)
		require.ErrorIs(b, <-third, forward.ErrLimit)
		_, err = b.Client("live/a").Play(b.Ctx, nil)
		require.Error(b, err, "through Serve")
		require.Empty(b, first)

		two.Close()
		<-second
		c, again := b.Served("live/a")
		p, err := c.Play(b.Ctx, nil)
		require.NoError(b, err, "there is room again")
		p.Close()
		require.NoError(b, <-again)
		require.Zero(b, others.Check())
	})
}

func TestLimitOfPendingHandshakes(t *testing.T) {
	inBubble(t, forward.Config{Limits: forward.Limits{PendingHandshakes: 2}}, func(b *bubble) {
		others := b.Steady()
		results := make([]chan error, 3)
		for i := range results {
			var c forwardtest.Client
			c, results[i] = b.Served("live/x")
			_, err := c.Dial(b.Ctx, "", "")
			require.NoError(b, err)
			synctest.Wait()
			if i < 2 {
				require.Empty(b, results[0])
			}
		}
		<-results[0] // the oldest client
		require.Empty(b, results[1])
		require.Empty(b, results[2])
		b.Play("live/ok").Close()
		<-results[1] // then the oldest client; the player has finished its handshake and does not count
		require.Empty(b, results[2])
		require.Zero(b, others.Check())
	})
}

func TestLimitOfStreams(t *testing.T) {
	inBubble(t, forward.Config{Limits: forward.Limits{Streams: 2}}, func(b *bubble) {
		others := b.Steady()
		p := b.Publish("live/a")
		_, err := b.Client("live/b").Publish(b.Ctx)
		require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		_, err = b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "b"})
		require.ErrorIs(b, err, forward.ErrLimit)
		p.Close()
		synctest.Wait()
		b.Publish("live/b")
		require.Zero(b, others.Check())
	})
}

func TestLimitsOfDestinations(t *testing.T) {
	r := forward.ResolverFunc(func(_ context.Context, req *forward.Request) ([]forward.Destination, error) {
		if req.Stream == "ok" {
			return nil, nil
		}
		return numbered(0, 4), nil
	})
	cfg := forward.Config{Resolver: r, Limits: forward.Limits{Destinations: 3, TotalDestinations: 5}}
	inBubble(t, cfg, func(b *bubble) {
		others := b.Steady()
		a := b.Publish("live/a")
		of := func(name string) int { return len(b.Server.Source(name).Forwarders()) }
		require.Equal(b, 3, of("live/a"))
		_, err := b.Server.Source("live/a").Forward(forward.Destination{URL: "rtmp://dest/live/more"})
		require.ErrorIs(b, err, forward.ErrLimit)
		b.Publish("live/b")
		require.Equal(b, 2, of("live/b"), "the rest of the total")
		_, err = b.Server.Source("live/b").Forward(forward.Destination{URL: "rtmp://dest/live/more"})
		require.ErrorIs(b, err, forward.ErrLimit)
		a.Close()
		<-time.After(time.Second)
		_, err = b.Server.Source("live/b").Forward(forward.Destination{URL: "rtmp://dest/live/more"})
		require.NoError(b, err)
		require.Zero(b, others.Check())
	})
}

// A destination that reads nothing makes the log grow exactly to its limits, whatever
// is published.
func TestLimitsOfLog(t *testing.T) {
	one, many := forwardtest.Media{KeyframeInterval: time.Hour, AudioBitrate: -1}, forwardtest.Media{KeyframeInterval: time.Second, AudioBitrate: -1}
	for _, row := range []struct {
		name      string
		cfg       forward.Config
		media     forwardtest.Media
		messages  int
		bytes     int
		reach     bool // limit on the number of messages
		lastFor   time.Duration
		bytesFull bool
	}{
		{name: "MaxBytes", cfg: forward.Config{MaxBytes: 200_000}, media: one, messages: 1000, bytes: 200_000, bytesFull: true, lastFor: 30 * time.Second},
		{name: "MaxLatency", cfg: forward.Config{MaxLatency: 2 * time.Second}, media: many, messages: 53, bytes: 16 << 20, reach: true, lastFor: 30 * time.Second},
		{name: "defaults", media: many, messages: 253, bytes: 16 << 20, reach: true, lastFor: 30 * time.Second},
		{name: "vhost", cfg: forward.Config{Vhosts: map[string]forward.Vhost{forward.DefaultVhost: {MaxLatency: 3 * time.Second}}}, media: many, messages: 78, bytes: 16 << 20, reach: true, lastFor: 30 * time.Second},
		{name: "the last GOP", cfg: forward.Config{MaxLatency: 2 * time.Second}, media: one, messages: 752, bytes: 16 << 20, reach: true, lastFor: 30 * time.Second},
		{name: "NoGOPCache", cfg: forward.Config{MaxLatency: 2 * time.Second, NoGOPCache: true}, media: one, messages: 53, bytes: 16 << 20, reach: true, lastFor: 30 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.cfg.Resolver = forward.MustStatic("rtmp://stalled/live/" + canary)
			row.cfg.WriteTimeout = time.Hour
			inBubble(t, row.cfg, func(b *bubble) {
				b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
				p := b.Publish("live/" + canary)
				most, mostBytes := 0, 0
				for m := range row.media.Messages(row.lastFor) {
					require.NoError(b, p.Send(b.Ctx, func(yield func(forwardtest.Message) bool) { yield(m) }, 1))
					synctest.Wait()
					st := b.Server.Source("live/" + canary).Stats()
					most, mostBytes = max(most, st.LogMessages), max(mostBytes, st.LogBytes)
				}
				require.LessOrEqual(b, most, row.messages)
				require.LessOrEqual(b, mostBytes, row.bytes)
				if row.reach {
					require.InDelta(b, row.messages, most, 2, "the limit is used")
				}
				if row.bytesFull {
					require.Greater(b, mostBytes, row.bytes/10*9, "the limit is used")
				}
			})
		})
	}
}

// Each publish of a connection is measured by its own media: a silent one ends, live
// ones are not disturbed.
func TestSilentPublishBesideALiveOne(t *testing.T) {
	for _, row := range []struct {
		name  string
		cfg   forward.Config
		media int // frames of the silent publish
		after time.Duration
	}{
		{"no media", forward.Config{}, 0, 15 * time.Second},
		{"media stops", forward.Config{}, 1, 10 * time.Second},
		{"FirstMediaTimeout", forward.Config{FirstMediaTimeout: 3 * time.Second}, 0, 3 * time.Second},
		{"ReadTimeout", forward.Config{ReadTimeout: 3 * time.Second}, 1, 3 * time.Second},
		{"no ReadTimeout", forward.Config{ReadTimeout: -1}, 1, 0},
		{"no FirstMediaTimeout", forward.Config{FirstMediaTimeout: -1}, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, row.cfg, func(b *bubble) {
				player := b.Play("live/live")
				nc, err := b.Net.Dial(b.Ctx, "tcp", "server:1935")
				require.NoError(b, err)
				defer nc.Close()
				require.NoError(b, rtmp.ClientHandshake(nc, false))
				var mu sync.Mutex
				send := func(p []byte) error {
					mu.Lock()
					defer mu.Unlock()
					_, err := nc.Write(p)
					return err
				}
				const size = 60000
				client := rtmp.NewConn(nc, send, 4096, size, rtmptest.NoLimits)
				require.NoError(b, rtmp.NewClient(client, rtmp.Options{App: "live", TcURL: "rtmp://server/live", Key: "live"}).Publish())
				told := new(logtest.Buffer)
				go io.Copy(told, nc)
				video := func(id, ms uint32, body []byte) {
					send(chunk.Append(nil, chunk.Header{Type: chunk.TypeVideo, Time: ms, StreamID: id}, body, size))
				}
				start, media := time.Now(), steady
				media.FPS, media.VideoBitrate = 5, 10_000
				go func() {
					for m := range media.Messages(-1) {
						select {
						case <-time.After(time.Until(start.Add(time.Duration(m.Timestamp) * time.Millisecond))):
							video(1, m.Timestamp, m.Payload)
						case <-b.Ctx.Done():
							return
						}
					}
				}()
				publishing := func() *forward.Source {
					synctest.Wait()
					return b.Server.Source("live/" + canary)
				}
				for i := range 2 { // the same message stream may publish again
					began := time.Now()
					send(rtmptest.CommandInChunks(size, 2, "publish", 0, nil, canary, "live"))
					for n := range row.media {
						video(2, 0, rtmptest.Frame(true, n))
					}
					require.NotNil(b, publishing())
					for publishing() != nil && time.Since(began) < time.Minute {
						time.Sleep(100 * time.Millisecond)
					}
					if row.after == 0 {
						require.NotNil(b, publishing())
						break
					}
					require.InDelta(b, row.after.Seconds()+0.5, time.Since(began).Seconds(), 0.7)
					require.Equal(b, i+1, strings.Count(told.String(), fmt.Sprintf("No media for %v.", row.after)))
				}
				time.Sleep(time.Second)
				require.NotNil(b, b.Server.Source("live/live"))
				require.NoError(b, player.Recorder().Err())
				require.Greater(b, player.Recorder().Report().Frames, 5*int(time.Since(start).Seconds())-10)
			})
		})
	}
}
