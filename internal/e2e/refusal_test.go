package e2e

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

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// The answer to a refused client is delayed; other clients do not wait.
func TestRefusalsAreDelayedAndCounted(t *testing.T) {
	no, down := fmt.Errorf("no: %w", forward.ErrRefused), errors.New("backend down")
	publish := func(ctx context.Context, c forwardtest.Client) error { _, err := c.Publish(ctx); return err }
	play := func(ctx context.Context, c forwardtest.Client) error { _, err := c.Play(ctx, nil); return err }
	password := func(string) (forward.Secret, bool) { return "right", true }
	for name, row := range map[string]struct {
		cfg  forward.Config
		do   func(context.Context, forwardtest.Client) error
		user string
		code string
		late bool
	}{
		"connect": {forward.Config{Hooks: forward.Hooks{OnConnect: func(_ context.Context, r *forward.Request) error { return refuseApp(r.App, no) }}}, play, "",
			"NetConnection.Connect.Rejected", true},
		"publish": {forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error { return refuseApp(r.App, down) }}}, publish, "",
			"NetStream.Publish.Denied", true},
		"play": {forward.Config{Hooks: forward.Hooks{OnPlay: func(_ context.Context, r *forward.Request) error { return refuseApp(r.App, no) }}}, play, "",
			"NetStream.Play.Failed", true},
		"resolver": {forward.Config{Resolver: forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
			return nil, refuseApp(r.App, no)
		})}, publish, "", "NetStream.Publish.Denied", true},
		"password": {forward.Config{PublishAuth: password}, publish, "wrong", "NetConnection.Connect.Rejected", true},
		// None of these counts as an attempt to guess a key.
		"resolver fails": {forward.Config{Resolver: forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
			return nil, refuseApp(r.App, down)
		})}, publish, "", "NetStream.Publish.Denied", false},
		"no password": {forward.Config{PublishAuth: password}, publish, "", "NetConnection.Connect.Rejected", false},
		"bad name": {forward.Config{}, func(ctx context.Context, c forwardtest.Client) error {
			c.URL = strings.Replace(c.URL, "?", "\n?", 1)
			return publish(ctx, c)
		}, "", "NetStream.Publish.BadName", false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, row.cfg, func(b *bubble) {
				ok := b.Client("live/ok")
				ok.User, ok.Password = "u", "right"
				pub, err := ok.Publish(b.Ctx)
				require.NoError(b, err)
				defer pub.Close()
				others := b.Neighbours(pub, steady, b.Play("live/ok").Recorder())

				c := b.Client("secret/s")
				if row.user != "" {
					c.User, c.Password = row.user, "guess"
				}
				began := time.Now()
				err = row.do(b.Ctx, c)
				require.Equal(b, row.code, forwardtest.RefusalCode(err), "%v", err)
				st := b.Server.Stats()
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
				others.Check()
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

// An address with too many refusals is shut out until a minute after the last one.
// Other addresses are not affected.
func TestLimitOfRefusalsPerAddress(t *testing.T) {
	const limit = 3
	log := new(logtest.Buffer)
	inBubble(t, forward.Config{
		Limits: forward.Limits{RefusalsPerAddress: limit}, Logger: secretscan.Logger(slog.NewTextHandler(log, nil)),
		Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error { return refuseApp(r.App, forward.ErrRefused) }},
	}, func(b *bubble) {
		const guesser = "198.51.100.1:1000"
		try := func(from, name string) (closed bool) {
			c, served := b.ServedFrom(from, name)
			p, err := c.Publish(b.Ctx)
			if err == nil {
				p.Close()
			}
			ended := <-served
			switch {
			case errors.Is(ended, forward.ErrLimit):
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
		late, lateServed := b.ServedFrom(guesser, "secret/s")
		hold, release := context.WithCancel(b.Ctx)
		defer release()
		dial := late.Dial
		late.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := dial(ctx, network, addr)
			<-hold.Done()
			return nc, err
		}
		lateErr := make(chan error, 1)
		go func() { _, err := late.Publish(b.Ctx); lateErr <- err }()
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
		nc, _ := b.ServedFrom(guesser, "live/s")
		near, err := nc.Dial(b.Ctx, "tcp", "h:1935")
		require.NoError(b, err)
		n, err := near.Read(make([]byte, 1))
		require.Zero(b, n, "it is told nothing")
		require.Equal(b, io.EOF, err)
		require.Equal(b, last.Add(refusalDelay), time.Now(), "and closed at once")
		require.False(b, shut("198.51.100.2:1000"), "another address")
		require.False(b, shut("pipe"))
		refused("pipe", limit)
		require.False(b, shut("pipe"), "no address, no count")

		release() // within the handshake timeout
		require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(<-lateErr))
		require.Error(b, <-lateServed)
		last = time.Now().Add(-refusalDelay)
		time.Sleep(time.Until(last.Add(time.Minute - 1)))
		require.True(b, shut(guesser), "until a minute after the last")
		require.Equal(b, 1, shutOut(), "one line")
		time.Sleep(time.Nanosecond)
		require.False(b, shut(guesser))
		require.EqualValues(b, limit+1, b.Server.Stats().RefusedFrom[netip.MustParseAddr("198.51.100.1")])

		// The count starts over: refusals of the minute before do not count.
		refused(guesser, limit-1)
		time.Sleep(time.Minute)
		refused(guesser, limit-1)
		require.False(b, shut(guesser))
		refused(guesser, 1)
		require.True(b, shut(guesser))
		require.Equal(b, 2, shutOut())

		// IPv6 addresses count by network.
		refused("[2001:db8:1:2::1]:1", limit)
		require.True(b, shut("[2001:db8:1:2:ffff::9]:1"))
		require.False(b, shut("[2001:db8:1:3::1]:1"))

		// A limit that a Reload removes ends immediately.
		require.NoError(b, b.Server.Reload(forward.Config{Logger: quiet, Addr: ":1935"}))
		require.False(b, shut(guesser))
	})
	inBubble(t, forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error { return refuseApp(r.App, forward.ErrRefused) }}}, func(b *bubble) {
		for range 100 {
			_, err := b.Client("secret/s").Publish(b.Ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		}
		b.Publish("live/s")
	})
}

// A decision that has taken long is not delayed much further.
func TestRefusalDelayCountsFromTheRequest(t *testing.T) {
	for takes, after := range map[time.Duration]time.Duration{
		100 * time.Millisecond: refusalDelay,
		time.Second:            time.Second,
	} {
		refuse := func() error {
			<-time.After(takes)
			return errors.New("no")
		}
		for name, hooks := range map[string]forward.Hooks{
			"connect": {OnConnect: func(context.Context, *forward.Request) error { return refuse() }},
			"publish": {OnPublish: func(context.Context, *forward.Request) error { return refuse() }},
		} {
			inBubble(t, forward.Config{Hooks: hooks}, func(b *bubble) {
				began := time.Now()
				_, err := b.Client("live/s").Publish(b.Ctx)
				require.NotEmpty(b, forwardtest.RefusalCode(err), name)
				require.Equal(b, after, time.Since(began), name)
			})
		}
		inBubble(t, forward.Config{Hooks: forward.Hooks{OnPlay: func(context.Context, *forward.Request) error { return refuse() }}}, func(b *bubble) {
			began := time.Now()
			_, err := b.Client("live/s").Play(b.Ctx, nil)
			require.NotEmpty(b, forwardtest.RefusalCode(err))
			require.Equal(b, after, time.Since(began))
		})
	}
}
