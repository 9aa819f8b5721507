package fanout

import (
	"bytes"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/gop"
)

// link is a connection whose peer receives rate bytes per second. It buffers up to buffer
// bytes that the peer has not received. If it is sealed, a write succeeds as a whole or is
// the last one, as with TLS.
type link struct {
	net.Conn
	rate   int
	buffer int
	tells  bool // Unsent
	sealed bool

	mu     sync.Mutex
	from   time.Time
	queued int // at from
	limit  time.Time
	broken bool
	got    bytes.Buffer
	most   int // in one write
}

func (l *link) Close() error { return nil }

func (l *link) SetWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = t
	return nil
}

// unsent returns how many bytes are queued now. mu is held.
func (l *link) unsent() int {
	now := time.Now()
	sent := int(now.Sub(l.from) * time.Duration(l.rate) / time.Second)
	if l.rate > 0 && sent > 0 {
		l.queued = max(l.queued-sent, 0)
		l.from = l.from.Add(time.Duration(sent) * time.Second / time.Duration(l.rate))
	}
	if l.queued == 0 {
		l.from = now
	}
	return l.queued
}

// telling is a link with a method Unsent.
type telling struct{ *link }

func (l telling) Unsent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsent()
}

func (l *link) Write(p []byte) (written int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most = max(l.most, len(p))
	if l.broken {
		return 0, os.ErrDeadlineExceeded
	}
	for len(p) > 0 {
		// Like a socket, it accepts nothing until half of the buffer is free.
		if room := l.buffer - l.unsent(); room >= l.buffer/2 {
			n := min(room, len(p))
			l.got.Write(p[:n])
			l.queued += n
			written, p = written+n, p[n:]
			continue
		}
		if !l.limit.IsZero() && !time.Now().Before(l.limit) {
			l.broken = l.sealed
			return written, os.ErrDeadlineExceeded
		}
		l.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		l.mu.Lock()
	}
	return written, nil
}

// The progress of a write is measured by the bytes that the peer receives, however large a
// message is, and however much is written at a time.
func TestSlowLinksLive(t *testing.T) {
	const timeout = 10 * time.Second
	for name, row := range map[string]struct {
		link    *link
		message int
		lives   bool
		within  time.Duration // else
	}{
		"14 kbit/s":                      {&link{rate: 1800, buffer: 2 << 10}, 64 << 10, true, 0},
		"less":                           {&link{rate: 1300, buffer: 2 << 10}, 64 << 10, false, timeout + 100*time.Millisecond},
		"nothing":                        {&link{rate: 0, buffer: 2 << 10}, 64 << 10, false, timeout + 100*time.Millisecond},
		"a byte now and then":            {&link{rate: 1, buffer: 2 << 10}, 64 << 10, false, timeout + 100*time.Millisecond},
		"a large message":                {&link{rate: 10_000, buffer: 16 << 10}, 4 << 20, true, 0},
		"a large message, sealed":        {&link{rate: 5000, buffer: 16 << 10, sealed: true}, 1 << 20, true, 0},
		"sealed, slower":                 {&link{rate: 2500, buffer: 16 << 10, sealed: true}, 256 << 10, true, 0},
		"a large buffer that is told of": {&link{rate: 2000, buffer: 256 << 10, tells: true}, 600 << 10, true, 0},
		"the same, and nothing":          {&link{rate: 0, buffer: 256 << 10, tells: true}, 600 << 10, false, timeout + 100*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStream(1 << 30)
				g := NewGroup(s.log, NewPool())
				l := row.link
				l.from = time.Now()
				var conn net.Conn = l
				if l.tells {
					conn = telling{l}
				}
				snd := newSender(conn, timeout)
				g.Add(snd, gop.Options{Layout: options.Layout, Size: chunkSize}, end)
				s.frame(row.message)
				began := time.Now()
				g.Wake()
				if row.lives {
					time.Sleep(time.Duration(row.message) * time.Second / time.Duration(l.rate) * 11 / 10)
					synctest.Wait()
					require.NoError(t, snd.Err())
					require.Zero(t, snd.Stats().Lag.Messages)
					require.Equal(t, slices.Concat(s.log.Get(1).Frame.Bytes()), l.got.Bytes())
				} else {
					for snd.Err() == nil {
						time.Sleep(100 * time.Millisecond)
					}
					require.ErrorIs(t, snd.Err(), ErrStalled)
					require.LessOrEqual(t, time.Since(began), row.within)
				}
				require.LessOrEqual(t, l.most, catchUp)
				snd.Close()
				snd.Wait()
			})
		})
	}
}
