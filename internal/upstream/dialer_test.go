package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leaktest"
)

// dialled is a network in which each address has its way to answer.
type dialled struct {
	began time.Time
	after map[string]time.Duration // that it takes to connect; refused where negative; else never

	mu    sync.Mutex
	tried []string // with when
	open  map[net.Conn]bool
}

func (a *dialled) dial(ctx context.Context, _, address string) (net.Conn, error) {
	a.mu.Lock()
	a.tried = append(a.tried, fmt.Sprint(address, " ", time.Since(a.began)))
	a.mu.Unlock()
	d, answers := a.after[address]
	var due <-chan time.Time
	if answers {
		due = time.After(max(d, -d))
	}
	select {
	case <-due:
	case <-ctx.Done():
		if d, ok := a.after[address]; !ok || d < 0 || time.Since(a.began) < d {
			return nil, ctx.Err()
		}
	}
	if d < 0 {
		return nil, errors.New("refused by " + address)
	}
	nc, peer := net.Pipe()
	c := &counted{nc, peer, a, address}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[c] = true
	return c, nil
}

// counted is a connection to an address.
type counted struct {
	net.Conn
	peer net.Conn
	in   *dialled
	to   string
}

func (c *counted) Close() error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	delete(c.in.open, c)
	c.peer.Close()
	return c.Conn.Close()
}

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m.Run)) }

func TestDialer(t *testing.T) {
	all := map[string][]string{
		"two.test":   {"10.0.0.1", "10.0.0.2"},
		"three.test": {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
		"mixed.test": {"2001:db8::1", "2001:db8::2", "2001:db8::3", "10.0.0.1"},
		"v4.test":    {"10.0.0.1", "10.0.0.2", "2001:db8::1"},
	}
	for _, row := range []struct {
		name, host string
		after      map[string]time.Duration
		tried      []string
		to         string
		took       time.Duration
		err        string
	}{
		{"the first answers", "two.test", map[string]time.Duration{"10.0.0.1:1935": 299 * time.Millisecond},
			[]string{"10.0.0.1:1935 0s"}, "10.0.0.1:1935", 299 * time.Millisecond, ""},
		{"the next address of the family", "two.test", map[string]time.Duration{"10.0.0.2:1935": 10 * time.Millisecond},
			[]string{"10.0.0.1:1935 0s", "10.0.0.2:1935 300ms"}, "10.0.0.2:1935", 310 * time.Millisecond, ""},
		{"the first is late, and first all the same", "two.test", map[string]time.Duration{"10.0.0.1:1935": 400 * time.Millisecond, "10.0.0.2:1935": time.Second},
			[]string{"10.0.0.1:1935 0s", "10.0.0.2:1935 300ms"}, "10.0.0.1:1935", 400 * time.Millisecond, ""},
		{"both at once", "two.test", map[string]time.Duration{"10.0.0.1:1935": 400 * time.Millisecond, "10.0.0.2:1935": 100 * time.Millisecond},
			[]string{"10.0.0.1:1935 0s", "10.0.0.2:1935 300ms"}, "", 400 * time.Millisecond, ""},
		{"one that fails makes room at once", "three.test", map[string]time.Duration{"10.0.0.1:1935": -time.Millisecond, "10.0.0.3:1935": time.Millisecond},
			[]string{"10.0.0.1:1935 0s", "10.0.0.2:1935 1ms", "10.0.0.3:1935 301ms"}, "10.0.0.3:1935", 302 * time.Millisecond, ""},
		{"the families take turns", "mixed.test", nil,
			[]string{"[2001:db8::1]:1935 0s", "10.0.0.1:1935 300ms", "[2001:db8::2]:1935 600ms", "[2001:db8::3]:1935 900ms"}, "", 5 * time.Second, "deadline exceeded"},
		{"beginning with that of the first", "v4.test", map[string]time.Duration{"10.0.0.2:1935": time.Millisecond},
			[]string{"10.0.0.1:1935 0s", "[2001:db8::1]:1935 300ms", "10.0.0.2:1935 600ms"}, "10.0.0.2:1935", 601 * time.Millisecond, ""},
		{"all fail", "two.test", map[string]time.Duration{"10.0.0.1:1935": -500 * time.Millisecond, "10.0.0.2:1935": -10 * time.Millisecond},
			[]string{"10.0.0.1:1935 0s", "10.0.0.2:1935 300ms"}, "", 500 * time.Millisecond, "refused by 10.0.0.1:1935"},
		{"no such name", "nobody.test", nil, nil, "", 0, "no such host"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &dialled{began: time.Now(), after: row.after, open: make(map[net.Conn]bool)}
				r := Dialer{Dial: a.dial, Lookup: func(_ context.Context, host string) (found []netip.Addr, err error) {
					for _, s := range all[host] {
						found = append(found, netip.MustParseAddr(s))
					}
					return found, nil
				}}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				nc, err := r.DialContext(ctx, "tcp", row.host+":1935")
				require.Equal(t, row.took, time.Since(a.began))
				require.Equal(t, row.tried, a.tried)
				if row.err != "" {
					require.ErrorContains(t, err, row.err)
					require.Empty(t, a.open)
					return
				}
				require.NoError(t, err)
				require.Equal(t, map[net.Conn]bool{nc: true}, a.open, "the others are closed")
				if row.to != "" {
					require.Equal(t, row.to, nc.(*counted).to)
				}
				nc.Close()
			})
		})
	}
}

// A name may have any number of addresses; few are tried.
func TestDialer_ManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &dialled{began: time.Now(), after: make(map[string]time.Duration)}
		var found []netip.Addr
		for i := range 1000 {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			found = append(found, addr)
			a.after[addr.String()+":1935"] = -1
		}
		_, err := Dialer{Dial: a.dial, Lookup: func(context.Context, string) ([]netip.Addr, error) { return found, nil }}.
			DialContext(t.Context(), "tcp", "many.test:1935")
		require.ErrorContains(t, err, "refused by 10.0.0.0:1935")
		require.Len(t, a.tried, maxAddrs)
	})
}

// Whoever gives up waits for no address.
func TestDialer_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &dialled{began: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 450*time.Millisecond)
		defer cancel()
		_, err := Dialer{Dial: a.dial, Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}, nil
		}}.DialContext(ctx, "tcp", "host:1935")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 450*time.Millisecond, time.Since(a.began))
		require.Len(t, a.tried, 2)
	})
}

func TestDialer_NoPort(t *testing.T) {
	_, err := NewDialer(nil).DialContext(t.Context(), "tcp", "no port")
	require.ErrorContains(t, err, "missing port")
}
