package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Whoever is refused waits, and nobody else does.
func TestRefusalsAreDelayedAndCounted(t *testing.T) {
	no, down := fmt.Errorf("no: %w", ErrRefused), errors.New("backend down")
	publish := func(ctx context.Context, c forwardtest.Client) error { _, err := c.Publish(ctx); return err }
	play := func(ctx context.Context, c forwardtest.Client) error { _, err := c.Play(ctx, nil); return err }
	password := func(string) (Secret, bool) { return "right", true }
	for name, row := range map[string]struct {
		cfg  Config
		do   func(context.Context, forwardtest.Client) error
		user string
		code string
		late bool
	}{
		"connect": {Config{Hooks: Hooks{OnConnect: func(_ context.Context, r *ConnectRequest) error { return refuseApp(r.App, no) }}}, play, "",
			"NetConnection.Connect.Rejected", true},
		"publish": {Config{Hooks: Hooks{OnPublish: func(_ context.Context, r *PublishRequest) error { return refuseApp(r.App, down) }}}, publish, "",
			"NetStream.Publish.Denied", true},
		"play": {Config{Hooks: Hooks{OnPlay: func(_ context.Context, r *PlayRequest) error { return refuseApp(r.App, no) }}}, play, "",
			"NetStream.Play.Failed", true},
		"resolver": {Config{Resolver: ResolverFunc(func(_ context.Context, r *PublishRequest) ([]Destination, error) {
			return nil, refuseApp(r.App, no)
		})}, publish, "", "NetStream.Publish.Denied", true},
		"password": {Config{PublishAuth: password}, publish, "wrong", "NetConnection.Connect.Rejected", true},
		// None of these is a try at somebody else's key.
		"resolver fails": {Config{Resolver: ResolverFunc(func(_ context.Context, r *PublishRequest) ([]Destination, error) {
			return nil, refuseApp(r.App, down)
		})}, publish, "", "NetStream.Publish.Denied", false},
		"no password": {Config{PublishAuth: password}, publish, "", "NetConnection.Connect.Rejected", false},
		"bad name": {Config{}, func(ctx context.Context, c forwardtest.Client) error {
			c.URL = strings.Replace(c.URL, "?", "\n?", 1)
			return publish(ctx, c)
		}, "", "NetStream.Publish.BadName", false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, row.cfg, func(b *bubble) {
				ok := b.client("live/ok")
				ok.User, ok.Password = "u", "right"
				pub, err := ok.Publish(b.ctx)
				require.NoError(b, err)
				defer pub.Close()
				others := b.neighbours(pub, steady, b.play("live/ok").Recorder())

				c := b.client("secret/s")
				if row.user != "" {
					c.User, c.Password = row.user, "guess"
				}
				began := time.Now()
				err = row.do(b.ctx, c)
				require.Equal(b, row.code, forwardtest.RefusalCode(err), "%v", err)
				st := b.srv.Stats()
				if row.late {
					require.Equal(b, refusalDelay, time.Since(began))
					require.EqualValues(b, 1, st.Refused)
					require.Equal(b, map[netip.Addr]uint64{netip.MustParseAddr("192.0.2.1"): 1}, st.RefusedFrom)
				} else {
					require.Zero(b, time.Since(began))
					require.Zero(b, st.Refused)
					require.Empty(b, st.RefusedFrom)
				}
				require.Equal(b, 1, st.Streams)
				require.Zero(b, st.Destinations)
				time.Sleep(time.Second)
				others.check()
			})
		})
	}
}

func refuseApp(app string, err error) error {
	if app == "secret" {
		return err
	}
	return nil
}

// Many guesses at once are delayed side by side, and their addresses do not
// fill the memory.
func TestRefusedAddressesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }
		for i := range maxRefusedAddrs {
			r.note(addr(i), time.Now(), -1)
			time.Sleep(time.Second)
		}
		r.note(addr(0), time.Now(), -1) // is not the oldest any more
		require.Len(t, r.byAddr, maxRefusedAddrs)
		r.note(addr(maxRefusedAddrs), time.Now(), -1)
		r.note(netip.Addr{}, time.Now(), -1)
		require.Len(t, r.byAddr, maxRefusedAddrs)
		require.EqualValues(t, 2, r.byAddr[addr(0)].count)
		require.NotContains(t, r.byAddr, addr(1))
		require.EqualValues(t, maxRefusedAddrs+3, r.total)
	})
}

func TestClientAddr(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1":                        "192.0.2.1",
		"[::ffff:192.0.2.1]:1":               "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1":           "2001:db8:1:2::",
		"[fe80::1%eth0]:1":                   "fe80::",
		"pipe":                               "invalid IP",
		"":                                   "invalid IP",
		"[2001:db8:1:2:ffff:ffff::1%1]:1935": "2001:db8:1:2::",
	} {
		require.Equal(t, want, clientAddr(textAddr(addr)).String(), addr)
	}
}

// addressed is a connection from an address.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }

// servedFrom is served for a client at an address.
func (b *bubble) servedFrom(addr, name string) (forwardtest.Client, chan error) {
	served := make(chan error, 1)
	c := b.client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() { served <- b.srv.ServeConn(context.Background(), addressed{far, textAddr(addr)}) }()
		return near, nil
	}
	return c, served
}

func TestLimitOfConnectionsPerAddress(t *testing.T) {
	const limit = 2
	inBubble(t, Config{Limits: Limits{ConnectionsPerAddress: limit}}, func(b *bubble) {
		play := func(from string) (*forwardtest.Player, chan error, error) {
			c, served := b.servedFrom(from, "live/"+canary)
			p, err := c.Play(b.ctx, nil)
			return p, served, err
		}
		var players []*forwardtest.Player
		for i := range limit {
			p, _, err := play(fmt.Sprintf("198.51.100.1:%d", 1000+i))
			require.NoError(b, err)
			players = append(players, p)
		}
		_, served, err := play("198.51.100.1:3000")
		require.Error(b, err)
		require.ErrorIs(b, <-served, ErrLimit)
		for range limit + 1 { // no address, no count
			p, _, err := play("pipe")
			require.NoError(b, err)
			players = append(players, p)
		}
		p, _, err := play("198.51.100.2:1000")
		require.NoError(b, err, "another address")
		players = append(players, p)

		players[0].Close()
		synctest.Wait()
		p, _, err = play("198.51.100.1:3000")
		require.NoError(b, err, "there is room again")
		for _, p := range append(players, p) {
			p.Close()
		}
		synctest.Wait()
		require.Empty(b, b.srv.Left())
		require.Zero(b, b.srv.Stats().Connections)
	})
}

// Who is refused again and again is shut out until a minute has passed since
// the last refusal, and nobody else is.
func TestLimitOfRefusalsPerAddress(t *testing.T) {
	const limit = 3
	log := new(logtest.Buffer)
	inBubble(t, Config{
		Limits: Limits{RefusalsPerAddress: limit}, Logger: secretscan.Logger(slog.NewTextHandler(log, nil)),
		Hooks: Hooks{OnPublish: func(_ context.Context, r *PublishRequest) error { return refuseApp(r.App, ErrRefused) }},
	}, func(b *bubble) {
		const guesser = "198.51.100.1:1000"
		try := func(from, name string) (closed bool) {
			c, served := b.servedFrom(from, name)
			p, err := c.Publish(b.ctx)
			if err == nil {
				p.Close()
			}
			ended := <-served
			switch {
			case errors.Is(ended, ErrLimit):
				require.EqualError(b, ended, "forward: limit reached: 3 refusals of an address within a minute")
				return true
			case name == "secret/s":
				require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
			default:
				require.NoError(b, err)
			}
			return false
		}
		refused := func(from string, times int) {
			for range times {
				require.False(b, try(from, "secret/s"))
			}
		}
		shut := func(from string) bool { return try(from, "live/s") }
		shutOut := func() int { return strings.Count(log.String(), "address shut out") }

		// An open connection, which is refused later.
		late, lateServed := b.servedFrom(guesser, "secret/s")
		hold, release := context.WithCancel(b.ctx)
		defer release()
		dial := late.Dial
		late.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := dial(ctx, network, addr)
			<-hold.Done()
			return nc, err
		}
		lateErr := make(chan error, 1)
		go func() { _, err := late.Publish(b.ctx); lateErr <- err }()
		synctest.Wait()

		refused(guesser, limit-1)
		require.False(b, shut(guesser))
		require.Zero(b, shutOut())
		refused(guesser, 1)
		last := time.Now().Add(-refusalDelay)
		require.Equal(b, 1, shutOut())
		for range 100 {
			require.True(b, shut(guesser))
		}
		nc, _ := b.servedFrom(guesser, "live/s")
		near, err := nc.Dial(b.ctx, "tcp", "h:1935")
		require.NoError(b, err)
		n, err := near.Read(make([]byte, 1))
		require.Zero(b, n, "it is told nothing")
		require.Equal(b, io.EOF, err)
		require.Equal(b, last.Add(refusalDelay), time.Now(), "and closed at once")
		require.False(b, shut("198.51.100.2:1000"), "another address")
		require.False(b, shut("pipe"))
		refused("pipe", limit)
		require.False(b, shut("pipe"), "no address, no count")

		release() // within the handshake's time
		require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(<-lateErr))
		require.Error(b, <-lateServed)
		last = time.Now().Add(-refusalDelay)
		time.Sleep(time.Until(last.Add(time.Minute - 1)))
		require.True(b, shut(guesser), "until a minute after the last")
		require.Equal(b, 1, shutOut(), "one line")
		time.Sleep(time.Nanosecond)
		require.False(b, shut(guesser))
		require.EqualValues(b, limit+1, b.srv.Stats().RefusedFrom[netip.MustParseAddr("198.51.100.1")])

		// It all begins anew; those of the minute before do not count.
		refused(guesser, limit-1)
		time.Sleep(time.Minute)
		refused(guesser, limit-1)
		require.False(b, shut(guesser))
		refused(guesser, 1)
		require.True(b, shut(guesser))
		require.Equal(b, 2, shutOut())

		// IPv6 by network, as everywhere.
		refused("[2001:db8:1:2::1]:1", limit)
		require.True(b, shut("[2001:db8:1:2:ffff::9]:1"))
		require.False(b, shut("[2001:db8:1:3::1]:1"))

		// What a Reload lifts is lifted at once.
		require.NoError(b, b.srv.Reload(Config{Logger: quiet, Addr: ":1935"}))
		require.False(b, shut(guesser))
	})
	inBubble(t, Config{Hooks: Hooks{OnPublish: func(_ context.Context, r *PublishRequest) error { return refuseApp(r.App, ErrRefused) }}}, func(b *bubble) {
		for range 100 {
			_, err := b.client("secret/s").Publish(b.ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		}
		b.publish("live/s")
	})
}

// A shut-out does not end early because somebody who is shut out is refused on
// a connection that he has had before.
func TestShutOutIsNotCutShort(t *testing.T) {
	var r refusals
	addr, began := netip.MustParseAddr("192.0.2.1"), time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	for _, step := range []struct {
		at   int
		shut bool // by this refusal
	}{{0, false}, {59, true}, {61, false}, {62, false}} {
		require.Equal(t, step.shut, r.note(addr, at(step.at), 2), "%d s", step.at)
	}
	require.True(t, r.shut(addr, at(121)))
	require.False(t, r.shut(addr, at(122)))
	require.False(t, r.note(addr, at(122), 2))
	require.False(t, r.shut(addr, at(122)))
	require.True(t, r.note(addr, at(123), 2))
	require.True(t, r.shut(addr, at(123)))
}

// A decision that takes long is not delayed for long once more.
func TestRefusalDelayCountsFromTheRequest(t *testing.T) {
	for takes, after := range map[time.Duration]time.Duration{
		100 * time.Millisecond: refusalDelay,
		time.Second:            time.Second,
	} {
		refuse := func() error {
			<-time.After(takes)
			return errors.New("no")
		}
		for name, hooks := range map[string]Hooks{
			"connect": {OnConnect: func(context.Context, *ConnectRequest) error { return refuse() }},
			"publish": {OnPublish: func(context.Context, *PublishRequest) error { return refuse() }},
		} {
			inBubble(t, Config{Hooks: hooks}, func(b *bubble) {
				began := time.Now()
				_, err := b.client("live/s").Publish(b.ctx)
				require.NotEmpty(b, forwardtest.RefusalCode(err), name)
				require.Equal(b, after, time.Since(began), name)
			})
		}
		inBubble(t, Config{Hooks: Hooks{OnPlay: func(context.Context, *PlayRequest) error { return refuse() }}}, func(b *bubble) {
			began := time.Now()
			_, err := b.client("live/s").Play(b.ctx, nil)
			require.NotEmpty(b, forwardtest.RefusalCode(err))
			require.Equal(b, after, time.Since(began))
		})
	}
}
