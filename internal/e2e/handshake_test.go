package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// manner is how a server reacts to a form of the handshake that it rejects; nil accepts
// it. n counts the connections from 1.
type manner func(n int, digest bool) func(nc net.Conn)

// takesOnly accepts one form and reacts to the other with m.
func takesOnly(digest bool, other func(net.Conn)) manner {
	return func(_ int, is bool) func(net.Conn) {
		if is == digest {
			return nil
		}
		return other
	}
}

func never(do func(net.Conn)) manner { return func(int, bool) func(net.Conn) { return do } }

// picky is a listener in front of a server that rejects some forms of the handshake.
type picky struct {
	net.Listener
	refuse manner

	mu    sync.Mutex
	forms string // the handshakes so far: p is plain, d has digests
}

func (l *picky) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pickyConn{Conn: nc, l: l}, nil
}

// seen returns the forms of the handshakes so far.
func (l *picky) seen() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forms
}

// judge returns the reaction to C0 and C1.
func (l *picky) judge(c []byte) func(net.Conn) {
	digest := !bytes.Equal(c[5:9], make([]byte, 4))
	l.mu.Lock()
	defer l.mu.Unlock()
	if digest {
		l.forms += "d"
	} else {
		l.forms += "p"
	}
	return l.refuse(len(l.forms), digest)
}

// pickyConn inspects C0 and C1 before the server does.
type pickyConn struct {
	net.Conn
	l    *picky
	once sync.Once
	head bytes.Reader
}

func (c *pickyConn) Read(p []byte) (int, error) {
	c.once.Do(func() {
		head := make([]byte, 1537)
		if _, err := io.ReadFull(c.Conn, head); err != nil {
			return
		}
		if refuse := c.l.judge(head); refuse != nil {
			refuse(c.Conn)
			return
		}
		c.head.Reset(head)
	})
	if c.head.Len() > 0 {
		return c.head.Read(p)
	}
	return c.Conn.Read(p)
}

// Reactions of servers to a handshake that they reject.
func hangsUp(nc net.Conn) { nc.Close() }

func hangsUpAfter(d time.Duration) func(net.Conn) {
	return func(nc net.Conn) {
		<-time.After(d)
		nc.Close()
	}
}

func saysNothing(net.Conn) {}

func says(s string) func(net.Conn) {
	return func(nc net.Conn) {
		nc.Write([]byte(s))
		nc.Close()
	}
}

func resets(nc net.Conn) {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	nc.(interface{ Reset() error }).Reset()
}

// pickyAt is a destination with these reactions at an address. Port 443 has TLS.
func pickyAt(b *bubble, address string, refuse manner, scripts ...forwardtest.Script) (*forwardtest.Destination, *picky) {
	b.Helper()
	l, err := b.Net.Listen(address)
	require.NoError(b, err)
	if _, port, _ := net.SplitHostPort(address); port == "443" {
		cert := newAuthority(b.T).issue(b.T, "dest", nil)
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	p := &picky{Listener: l, refuse: refuse}
	d := forwardtest.NewDestinationAt(p, scripts...)
	b.Cleanup(func() { d.Close() })
	return d, p
}

// forwardTo pushes live/s to d.
func forwardTo(b *bubble, d forward.Destination) *forward.Forwarder {
	b.Helper()
	if d.TLSConfig == nil {
		d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	f, err := publish(b.T, b.Server, "live", "s").Source().Forward(d)
	require.NoError(b, err)
	synctest.Wait()
	return f
}

// lastLoss is the error of the last attempt.
func lastLoss(t testing.TB, f *forward.Forwarder) *forward.DestinationError {
	t.Helper()
	var de *forward.DestinationError
	require.ErrorAs(t, f.Stats().LastErr, &de)
	require.NotContains(t, de.Error(), canary)
	return de
}

// A destination that breaks off one form of the handshake immediately gets the other
// one, on a new connection, and gets it first from then on.
func TestHandshakeInTheOtherForm(t *testing.T) {
	for name, url := range map[string]string{"rtmp": "rtmp://dest/live/" + canary, "rtmps": "rtmps://dest/live/" + canary} {
		for _, c := range []struct {
			name    string
			first   bool // Destination.DigestHandshake
			refuse  manner
			forms   string
			Publish int // the connection that publishes
		}{
			{"takes both", false, never(nil), "p", 1},
			{"takes both, digests first", true, never(nil), "d", 1},
			{"digests, first", true, takesOnly(true, hangsUp), "d", 1},
			{"digests, else closes", false, takesOnly(true, hangsUp), "pd", 2},
			{"digests, else resets", false, takesOnly(true, resets), "pd", 2},
			{"digests, else half an answer", false, takesOnly(true, says("\x03\x00\x00\x00\x00")), "pd", 2},
			{"digests, else another version", false, takesOnly(true, says("\x06"+string(make([]byte, 3072)))), "pd", 2},
			{"digests, else another version, and waits", false, takesOnly(true, func(nc net.Conn) { nc.Write(append([]byte{6}, make([]byte, 3072)...)) }), "pd", 2},
			{"plain, else closes", true, takesOnly(false, hangsUp), "dp", 2},
			{"plain, else resets", true, takesOnly(false, resets), "dp", 2},
			{"plain, else nonsense", true, takesOnly(false, says("no")), "dp", 2},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				inBubble(t, forward.Config{}, func(b *bubble) {
					address := "dest:1935"
					if name == "rtmps" {
						address = "dest:443"
					}
					d, seen := pickyAt(b, address, c.refuse)
					began := time.Now()
					f := forwardTo(b, forward.Destination{URL: url, DigestHandshake: c.first})
					s := b.Published(d, c.Publish)
					require.Zero(b, time.Since(began))
					require.Equal(b, c.forms, seen.seen())
					st := f.Stats()
					require.Equal(b, forward.StatePublishing, st.State)
					require.NoError(b, st.LastErr)
					require.EqualValues(b, c.Publish, st.Connects)
					require.EqualValues(b, 1, st.Accepted)

					works := c.forms[len(c.forms)-1:]
					for n := range 3 {
						s.Close()
						s = b.Published(d, c.Publish+1+n)
						require.EqualValues(b, c.Publish+1+n, f.Stats().Connects)
					}
					require.Equal(b, c.forms+works+works+works, seen.seen(), "the form that worked comes first")
				})
			})
		}
	}
}

// A silent destination uses up the attempt's time, so the next attempt tries the other
// form.
func TestHandshakeInTheOtherFormNextTime(t *testing.T) {
	for name, url := range map[string]string{"dest:1935": "rtmp://dest/live/" + canary, "dest:443": "rtmps://dest/live/" + canary} {
		for _, digest := range []bool{true, false} {
			inBubble(t, forward.Config{}, func(b *bubble) {
				d, seen := pickyAt(b, name, takesOnly(digest, saysNothing))
				forms := "pd"
				if !digest {
					forms = "dp"
				}
				f := forwardTo(b, forward.Destination{URL: url, DigestHandshake: !digest})
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.Equal(b, forms[:1], seen.seen())
				require.Len(b, d.Sessions(), 1)
				de := lastLoss(b, f)
				require.Equal(b, forward.OpHandshake, de.Op)
				require.ErrorContains(b, de, "no answer within 5s")
				time.Sleep(time.Second)
				b.Published(d, 2).Close()
				b.Published(d, 3)
				require.Equal(b, forms+forms[1:], seen.seen())
				require.EqualValues(b, 3, f.Stats().Connects)
			})
		}
	}
	// A form for which there was no time is not skipped.
	inBubble(t, forward.Config{}, func(b *bubble) {
		d, seen := pickyAt(b, "dest:1935", func(n int, digest bool) func(net.Conn) {
			switch {
			case !digest:
				return hangsUp
			case n < 5:
				return saysNothing
			}
			return nil
		})
		f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
		time.Sleep(30 * time.Second)
		b.Published(d, 6)
		require.Equal(b, "pdpdpd", seen.seen())
		require.Equal(b, forward.StatePublishing, f.Stats().State)
	})
}

// If neither form is accepted, an attempt has at most two connections and one error,
// that of the first form.
func TestHandshakeInNeitherForm(t *testing.T) {
	version := says("\x06" + string(make([]byte, 3072)))
	for _, c := range []struct {
		name, address string
		refuse        manner
		text          string
	}{
		{"closes", "dest:1935", never(hangsUp), "closed by the destination (is it rtmps://?)"},
		{"closes, TLS", "dest:443", never(hangsUp), "closed by the destination"},
		{"first closes", "dest:1935", func(_ int, digest bool) func(net.Conn) {
			if digest {
				return version
			}
			return hangsUp
		}, "closed by the destination (is it rtmps://?)"},
		{"then closes", "dest:1935", func(_ int, digest bool) func(net.Conn) {
			if digest {
				return hangsUp
			}
			return version
		}, "version is not 3 (6) (is it rtmps://?)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := new(states)
			inBubble(t, forward.Config{Hooks: forward.Hooks{OnForward: st.note}}, func(b *bubble) {
				st.began = time.Now()
				d, seen := pickyAt(b, c.address, c.refuse)
				url := "rtmp://dest/live/" + canary
				if c.address == "dest:443" {
					url = "rtmps://dest/live/" + canary
				}
				f := forwardTo(b, forward.Destination{URL: url})
				time.Sleep(time.Minute - time.Nanosecond)
				synctest.Wait()
				errs, _ := st.losses(f)
				require.NotEmpty(b, errs)
				require.LessOrEqual(b, len(errs), 8)
				for _, err := range errs {
					require.Equal(b, forward.OpHandshake, err.Op)
					require.ErrorContains(b, err, c.text)
					require.True(b, err.Temporary())
				}
				require.Equal(b, strings.Repeat("pd", len(errs)), seen.seen())
				require.Len(b, d.Sessions(), 2*len(errs))
				require.EqualValues(b, 2*len(errs), f.Stats().Connects)
				if c.name == "closes" {
					measured(1, "accepts and closes immediately: attempts in the first 60 s", "<= 8, of 2 connects", "%d, of 2", len(errs))
				}
			})
		})
	}
}

// Errors unrelated to the form of the handshake cause no second connection.
func TestHandshakeNotInTheOtherForm(t *testing.T) {
	for _, c := range []struct {
		name, text string
		answer     func(net.Conn)
	}{
		{"TLS", "closed by the destination (is it rtmps://?)", says("\x15\x03\x03\x00\x02\x02\x46")},
		{"HTTP", "closed by the destination (is it rtmps://?)", says("HTTP/1.1 400 Bad Request\r\n\r\n")},
		{"long HTTP", "version is not 3 (72) (is it rtmps://?)", says("HTTP/1.1 400 Bad Request\r\n\r\n" + string(make([]byte, 3072)))},
		{"silence", "no answer within 5s (is it rtmps://?)", saysNothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := new(states)
			inBubble(t, forward.Config{Hooks: forward.Hooks{OnForward: st.note}}, func(b *bubble) {
				d, seen := pickyAt(b, "dest:1935", never(c.answer))
				f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
				time.Sleep(30 * time.Second)
				synctest.Wait()
				errs, _ := st.losses(f)
				require.NotEmpty(b, errs)
				for _, err := range errs {
					require.Equal(b, forward.OpHandshake, err.Op)
					require.ErrorContains(b, err, c.text)
					require.True(b, err.Temporary())
				}
				attempts := len(errs)
				if f.Stats().State != forward.StateWaiting {
					attempts++
				}
				require.Len(b, d.Sessions(), attempts)
				require.Equal(b, strings.Repeat("pd", attempts)[:attempts], seen.seen(), "in turn")
			})
		})
	}
	// Neither does an error after a successful handshake.
	t.Run("it has worked", func(t *testing.T) {
		inBubble(t, forward.Config{}, func(b *bubble) {
			d, seen := pickyAt(b, "dest:1935", func(n int, _ bool) func(net.Conn) {
				switch n {
				case 2, 3:
					return hangsUp
				case 4:
					return saysNothing
				}
				return nil
			})
			f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
			b.Published(d, 1).Close()
			b.Published(d, 5)
			require.Equal(b, "ppppp", seen.seen())
			require.EqualValues(b, 5, f.Stats().Connects)
		})
	})
	// With TLS 1.3 a refused certificate is noticed during the handshake.
	t.Run("alert", func(t *testing.T) {
		inBubble(t, forward.Config{}, func(b *bubble) {
			l, err := b.Net.Listen("dest:443")
			require.NoError(b, err)
			required := &tls.Config{Certificates: []tls.Certificate{newAuthority(b.T).issue(b.T, "dest", nil)}}
			after := required.Clone()
			requireClient(required)
			hellos := 0
			required.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				if hellos++; hellos == 1 {
					return nil, nil
				}
				return after, nil
			}
			p := &picky{Listener: tls.NewListener(l, required), refuse: never(nil)}
			d := forwardtest.NewDestinationAt(p)
			defer d.Close()
			f := forwardTo(b, forward.Destination{URL: "rtmps://dest/live/" + canary})
			require.Equal(b, forward.StateWaiting, f.Stats().State)
			require.Equal(b, forward.OpTLS, lastLoss(b, f).Op)
			require.Len(b, d.Sessions(), 1)
			b.Published(d, 2)
			require.Equal(b, "p", p.seen())
		})
	})
	for name, end := range map[string]func(*bubble, *forward.Forwarder){
		"Forwarder.Close": func(b *bubble, f *forward.Forwarder) { require.NoError(b, f.Close()) },
		"Forwarder.Shutdown": func(b *bubble, f *forward.Forwarder) {
			ctx, cancel := context.WithCancel(b.Ctx)
			cancel()
			require.ErrorIs(b, f.Shutdown(ctx), context.Canceled)
		},
		"Source.Close": func(b *bubble, f *forward.Forwarder) { f.Source().Close() },
		"Server.Close": func(b *bubble, _ *forward.Forwarder) { b.Server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{}, func(b *bubble) {
				d, _ := pickyAt(b, "dest:1935", never(hangsUpAfter(time.Second)))
				f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
				end(b, f)
				<-f.Done()
				require.Len(b, d.Sessions(), 1)
				require.EqualValues(b, 1, f.Stats().Connects)
			})
		})
	}
	t.Run("Update", func(t *testing.T) {
		st := new(states)
		inBubble(t, forward.Config{Hooks: forward.Hooks{OnForward: st.note}}, func(b *bubble) {
			b.Destination("healthy:1935")
			pickyAt(b, "dest:1935", never(saysNothing))
			f := forwardTo(b, forward.Destination{URL: "rtmp://healthy/live/" + canary})
			ctx, cancel := context.WithTimeout(b.Ctx, time.Second)
			defer cancel()
			err := f.Update(ctx, forward.Destination{URL: "rtmp://dest/live/" + canary})
			require.ErrorIs(b, err, context.DeadlineExceeded)
			synctest.Wait()
			require.EqualValues(b, 2, f.Stats().Connects, "one to each")
		})
	})
}

// The second connection has the rest of the first one's time.
func TestHandshakeInTheOtherFormInTime(t *testing.T) {
	inTime := func(t *testing.T, limit time.Duration, op, text string, refuse manner, scripts ...forwardtest.Script) {
		inBubble(t, forward.Config{}, func(b *bubble) {
			d, seen := pickyAt(b, "dest:1935", refuse, scripts...)
			f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
			time.Sleep(limit - time.Nanosecond)
			synctest.Wait()
			require.Equal(b, forward.StateHandshaking, f.Stats().State)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.Equal(b, forward.StateWaiting, f.Stats().State)
			require.Equal(b, forward.Op(op), lastLoss(b, f).Op)
			require.ErrorContains(b, lastLoss(b, f), text)
			require.Len(b, d.Sessions(), 2)
			require.Equal(b, "pd", seen.seen())
		})
	}
	both := func(plain, digest func(net.Conn)) manner {
		return func(_ int, is bool) func(net.Conn) {
			if is {
				return digest
			}
			return plain
		}
	}
	late := hangsUpAfter(4 * time.Second)
	inTime(t, 9*time.Second, "handshake", "closed by the destination", both(late, saysNothing))
	inTime(t, 8*time.Second, "handshake", "closed by the destination", both(late, late))
	inTime(t, 9*time.Second, "connect", "no answer within 5s", both(late, nil), script("connect", forwardtest.Step{Silent: true}))
	inTime(t, 39*time.Second, "publish", "no answer within 35s", both(late, nil), script("publish", forwardtest.Step{Silent: true}))
	inTime(t, 10*time.Second, "connect", "no answer within 2s", both(late, nil),
		forwardtest.Script{}, forwardtest.Script{Steps: map[string]forwardtest.Step{"handshake": {Delay: 4 * time.Second}, "connect": {Silent: true}}})
}

// Without a second connection, the error is that of the first.
func TestHandshakeInTheOtherFormNotReached(t *testing.T) {
	for _, c := range []struct {
		dial func(context.Context) error
		took time.Duration
	}{
		{func(context.Context) error { return errors.New("refused") }, 0},
		{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 4 * time.Second},
	} {
		var in *forwardtest.Network
		dials := 0
		st := new(states)
		inBubble(t, forward.Config{Hooks: forward.Hooks{OnForward: st.note}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 2 {
				return nil, c.dial(ctx)
			}
			return in.Dial(ctx, network, address)
		}}, func(b *bubble) {
			in, st.began = b.Net, time.Now()
			d, seen := pickyAt(b, "dest:1935", takesOnly(true, hangsUp))
			f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary, SetupTimeout: 4 * time.Second})
			b.Published(d, 2)
			errs, at := st.losses(f)
			require.Len(b, errs, 1)
			require.Equal(b, forward.OpHandshake, errs[0].Op)
			require.ErrorContains(b, errs[0], "closed by the destination")
			require.Equal(b, c.took, at[0])
			require.Equal(b, "pd", seen.seen(), "it is still its turn")
		})
	}
}

// Each destination has its own form and its own time.
func TestHandshakeFormsOfSeveralDestinations(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		to := sending("rtmp://other:1935/app2")
		to.Steps["handshake"] = forwardtest.Step{Delay: 4 * time.Second}
		first, atFirst := pickyAt(b, "dest:1935", takesOnly(true, hangsUpAfter(4*time.Second)), forwardtest.Script{}, to)
		second, atSecond := pickyAt(b, "other:1935", takesOnly(true, hangsUpAfter(4*time.Second)))
		f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary, Redirect: forward.RedirectAnywhere})
		s := b.Published(second, 2)
		require.NoError(b, f.Stats().LastErr)
		s.Close()
		b.Published(second, 4)
		require.Equal(b, "pdd", atFirst.seen())
		require.Len(b, first.Sessions(), 3)
		require.Equal(b, "pdpd", atSecond.seen())
		require.EqualValues(b, 7, f.Stats().Connects)
	})
	// A server that requires a password takes three connections, and one more for the
	// other form. Each has its own time.
	inBubble(t, forward.Config{}, func(b *bubble) {
		slowly := func(s forwardtest.Script) forwardtest.Script {
			s.Steps["handshake"] = forwardtest.Step{Delay: 4 * time.Second}
			return s
		}
		d, seen := pickyAt(b, "dest:1935", takesOnly(true, hangsUp), forwardtest.Script{}, slowly(refusing("code=403 need auth; authmod=adobe ] : ")),
			slowly(refusing("authmod=adobe ] : ?reason=needauth&user=jo&salt=s&opaque=o")), slowly(script("connect", forwardtest.Step{})))
		f := forwardTo(b, forward.Destination{URL: "rtmp://jo:pw@dest/live/" + canary})
		b.Published(d, 4)
		require.Equal(b, "pddd", seen.seen())
		require.EqualValues(b, 4, f.Stats().Connects)
	})
	// The connection of a handover is set up in the same way.
	inBubble(t, forward.Config{}, func(b *bubble) {
		d, _ := pickyAt(b, "dest:1935", takesOnly(false, hangsUp))
		next, seen := pickyAt(b, "dest:2935", takesOnly(true, hangsUp))
		f := forwardTo(b, forward.Destination{URL: "rtmp://dest/live/" + canary})
		s := b.Published(d, 1)
		asksToReconnect(b.T, s, "rtmp://dest:2935/live")
		b.Published(next, 2)
		require.Equal(b, "pd", seen.seen())
		require.EqualValues(b, 3, f.Stats().Connects)
	})
}
