package e2e

import (
	"bytes"
	"context"
	"log/slog"
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
	"github.com/rtmp-forward/forward/internal/upstream"
)

// sending is a Script that answers connect with a redirect.
func sending(to string) forwardtest.Script {
	return forwardtest.Script{Steps: map[string]forwardtest.Step{"connect": {Do: func(s *forwardtest.Session) {
		s.Send(0, "_error", 1, nil, map[string]any{"level": "error", "code": "NetConnection.Connect.Rejected", "description": "moved",
			"ex": map[string]any{"code": 302, "redirect": to}})
	}}}}
}

func TestForwarderFollowsRedirects(t *testing.T) {
	for _, c := range []struct {
		name     string
		d        forward.Destination
		first    []forwardtest.Script
		sessions [2]int // at a.example:1935 and b.example:1935
		err      error  // nil: publishing
	}{
		{"to another app", forward.Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2"), {}}, [2]int{2, 0}, nil},
		{"three times", forward.Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2"), sending("/app2"), sending("/app2"), {}}, [2]int{4, 0}, nil},
		{"four times", forward.Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2")}, [2]int{4, 0}, upstream.ErrRedirects},
		{"to another host", forward.Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("rtmp://b.example/app2?" + canary)}, [2]int{1, 0}, errRedirectHost},
		{"never", forward.Destination{URL: "rtmp://a.example/app", Redirect: forward.RedirectNever}, []forwardtest.Script{sending("/app2")}, [2]int{1, 0}, errRedirectNever},
		{"anywhere", forward.Destination{URL: "rtmp://a.example/app", Redirect: forward.RedirectAnywhere}, []forwardtest.Script{sending("rtmp://b.example/app2")}, [2]int{1, 1}, nil},
		{"password required at the new host", forward.Destination{URL: "rtmp://jo:pw@a.example/app"},
			[]forwardtest.Script{refusing("code=403 need auth; authmod=adobe ] : "), sending("/app2"), refusing("code=403 need auth; authmod=adobe ] : "),
				refusing("authmod=adobe ] : ?reason=needauth&user=jo&salt=s&opaque=o"), {}}, [2]int{5, 0}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				a, b := network.NewDestination("a.example:1935", c.first...), network.NewDestination("b.example:1935")
				defer a.Close()
				defer b.Close()
				log := new(logtest.Buffer)
				s := newServer(t, forward.Config{Dial: network.Dial, Logger: secretscan.Logger(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
				c.d.StreamKey = canary
				f, err := publish(t, s, "live", "s").Source().Forward(c.d)
				require.NoError(t, err)
				synctest.Wait()
				st := f.Stats()
				require.Len(t, a.Sessions(), c.sessions[0])
				require.Len(t, b.Sessions(), c.sessions[1])
				require.EqualValues(t, c.sessions[0]+c.sessions[1], st.Connects)
				require.NotContains(t, log.String(), canary)
				if c.err != nil {
					require.Equal(t, forward.StateWaiting, st.State)
					var de *forward.DestinationError
					require.ErrorAs(t, st.LastErr, &de)
					require.Equal(t, forward.OpConnect, de.Op)
					require.Equal(t, "NetConnection.Connect.Rejected", de.Code)
					require.False(t, de.Temporary())
					require.ErrorContains(t, de, c.err.Error())
					require.NotContains(t, de.Error(), canary)
					return
				}
				require.Equal(t, forward.StatePublishing, st.State)
				require.EqualValues(t, 1, st.Accepted)
				last := a.Sessions()[c.sessions[0]-1]
				if c.sessions[1] > 0 {
					last = b.Sessions()[0]
				}
				app, tcURL := connectOf(t, last)
				require.True(t, strings.HasPrefix(app.(string), "app2"))
				require.True(t, strings.HasSuffix(tcURL.(string), app.(string)))
				cmd, err := last.WaitCommand(t.Context(), "publish")
				require.NoError(t, err)
				require.Equal(t, canary, cmd.String(1))
			})
		})
	}
}

// Redirect targets are checked after name resolution, like the destinations of a
// backend.
func TestRedirectsToPrivateAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		allow []netip.Prefix
		ok    bool
	}{
		"not allowed": {nil, false},
		"allowed":     {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			other := forwardtest.NewDestination()
			defer other.Close()
			first := forwardtest.NewDestination(sending(strings.Replace(other.URL("app2"), "127.0.0.1", "localhost", 1)))
			defer first.Close()
			lost := make(chan error, 1)
			s := newServer(t, forward.Config{AllowNetworks: c.allow, Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
				if state == forward.StatePublishing || state == forward.StateWaiting {
					select {
					case lost <- err:
					default:
					}
				}
			}}})
			_, err := publish(t, s, "live", "s").Source().Forward(forward.Destination{URL: first.URL("app/key"), Redirect: forward.RedirectAnywhere})
			require.NoError(t, err)
			err = <-lost
			if c.ok {
				require.NoError(t, err)
				return
			}
			var refused *forward.AddressError
			require.ErrorAs(t, err, &refused)
			require.Empty(t, other.Sessions())
		})
	}
}

// asksToReconnect makes a session send a ReconnectRequest, as in Enhanced RTMP v2.
func asksToReconnect(t *testing.T, s *forwardtest.Session, tcURL string) {
	info := map[string]any{"level": "status", "code": "NetConnection.Connect.ReconnectRequest", "description": "The streaming server is undergoing updates."}
	if tcURL != "" {
		info["tcUrl"] = tcURL
	}
	require.NoError(t, s.Send(0, "onStatus", 0, nil, info))
	synctest.Wait()
}

// numbers are the numbers of the frames that a session received; ended reports whether
// it was told of the end.
func numbers(s *forwardtest.Session) (frames []int, ended bool) {
	for _, m := range s.Recorder().Messages() {
		if m.Type == forward.TagVideo && m.Payload[1] == 1 {
			frames = append(frames, int(m.Payload[5])<<16|int(m.Payload[6])<<8|int(m.Payload[7]))
		}
	}
	for _, c := range s.Commands() {
		ended = ended || c.Name == "deleteStream"
	}
	return frames, ended
}

// moving is a stream pushed to a.example, of which frames 0 to 14 have been sent.
type moving struct {
	*testing.T
	net  *forwardtest.Network
	a, b *forwardtest.Destination // at ports 1935 and 1936
	srv  *forward.Server
	p    *forward.Publisher
	f    *forward.Forwarder
	log  *logtest.Buffer
}

func inMove(t *testing.T, d forward.Destination, atA, atB []forwardtest.Script, run func(m *moving)) {
	synctest.Test(t, func(t *testing.T) {
		m := &moving{T: t, net: new(forwardtest.Network), log: new(logtest.Buffer)}
		m.a, m.b = m.net.NewDestination("a.example:1935", atA...), m.net.NewDestination("a.example:1936", atB...)
		defer m.a.Close()
		defer m.b.Close()
		m.srv = newServer(t, forward.Config{MergeWindow: -1, Dial: m.net.Dial, Logger: secretscan.Logger(slog.NewTextHandler(m.log, nil))})
		m.p = publish(t, m.srv, "live", "s")
		d.URL, d.StreamKey = "rtmp://a.example/live", canary
		var err error
		m.f, err = m.p.Source().Forward(d)
		require.NoError(t, err)
		synctest.Wait()
		begin(t, m.p)
		feed(t, m.p, 0, 15)
		run(m)
		require.NotContains(t, m.log.String(), canary)
	})
}

func (m *moving) requireFrames(s *forwardtest.Session, want []int, ended bool) {
	m.Helper()
	frames, e := numbers(s)
	require.Equal(m, want, frames)
	require.Equal(m, ended, e)
	require.Empty(m, s.Recorder().Report().Wrong)
}

func TestReconnectRequestSwitchesAtKeyframe(t *testing.T) {
	for name, tcURL := range map[string]string{
		"to another port": "rtmp://a.example:1936/live", "without a scheme": "//a.example:1936/live",
	} {
		t.Run(name, func(t *testing.T) {
			inMove(t, forward.Destination{}, nil, nil, func(m *moving) {
				t := m.T
				asksToReconnect(t, m.a.Sessions()[0], tcURL)
				require.Len(t, m.b.Sessions(), 1, "it is publishing before the keyframe")
				_, err := m.b.Sessions()[0].WaitCommand(t.Context(), "publish")
				require.NoError(t, err)
				asksToReconnect(t, m.a.Sessions()[0], tcURL) // already in progress
				before := m.f.Stats()
				feed(t, m.p, 15, 19)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 19), false)
				feed(t, m.p, 19, 35)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 20), true)
				m.requireFrames(m.b.Sessions()[0], sequence(20, 35), false)
				require.Len(t, m.a.Sessions(), 1)
				require.Len(t, m.b.Sessions(), 1)

				st := m.f.Stats()
				require.Equal(t, []*forward.Forwarder{m.f}, m.p.Source().Forwarders(), "the same forwarder")
				require.Equal(t, forward.StatePublishing, st.State)
				require.EqualValues(t, 2, st.Connects)
				require.EqualValues(t, 2, st.Accepted)
				require.EqualValues(t, 2+35, st.Messages, "each once")
				require.Greater(t, st.Bytes, before.Bytes)
				require.NoError(t, st.LastErr)

				// A second request soon after is ignored.
				asksToReconnect(t, m.b.Sessions()[0], "rtmp://a.example/live")
				feed(t, m.p, 35, 45)
				require.Len(t, m.a.Sessions(), 1)
				time.Sleep(moveEvery)
				asksToReconnect(t, m.b.Sessions()[0], "rtmp://a.example/live")
				feed(t, m.p, 45, 55)
				m.requireFrames(m.b.Sessions()[0], sequence(20, 50), true)
				m.requireFrames(m.a.Sessions()[1], sequence(50, 55), false)

				// After a loss the destination is dialled at its original URL.
				m.a.Sessions()[1].Reset()
				time.Sleep(time.Minute)
				require.Len(t, m.a.Sessions(), 3)
				m.p.Close()
				<-m.p.Source().Done()
				m.requireFrames(m.a.Sessions()[2], sequence(50, 55), true)
			})
		})
	}
}

// A server that already has a publisher of the stream gets it once that one has ended;
// nothing is lost.
func TestReconnectRequestToABusyServer(t *testing.T) {
	busy := forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}}
	inMove(t, forward.Destination{}, []forwardtest.Script{{}, busy, {}}, nil, func(m *moving) {
		t := m.T
		asksToReconnect(t, m.a.Sessions()[0], "")
		feed(t, m.p, 15, 20)
		require.Len(t, m.a.Sessions(), 2)
		feed(t, m.p, 20, 35)
		m.requireFrames(m.a.Sessions()[0], sequence(0, 20), true)
		m.requireFrames(m.a.Sessions()[2], sequence(20, 35), false)
		require.Len(t, m.a.Sessions(), 3)
		require.NoError(t, m.f.Stats().LastErr)
		require.EqualValues(t, 2+35, m.f.Stats().Messages)
	})
}

func TestReconnectRequestNotFollowed(t *testing.T) {
	refuses := forwardtest.Script{Steps: map[string]forwardtest.Step{"connect": {Refuse: "NetConnection.Connect.InvalidApp"}}}
	for name, c := range map[string]struct {
		d  forward.Destination
		to string
	}{
		"another host": {forward.Destination{}, "rtmp://b.example/live/" + canary},
		"never":        {forward.Destination{Redirect: forward.RedirectNever}, "rtmp://a.example:1936/live"},
		"nobody there": {forward.Destination{}, "rtmp://a.example:1937/live"},
		"refused":      {forward.Destination{}, "rtmp://a.example:1936/live"},
	} {
		t.Run(name, func(t *testing.T) {
			inMove(t, c.d, nil, []forwardtest.Script{refuses}, func(m *moving) {
				t := m.T
				asksToReconnect(t, m.a.Sessions()[0], c.to)
				feed(t, m.p, 15, 35)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 35), false)
				require.Equal(t, forward.StatePublishing, m.f.Stats().State)
				require.Contains(t, m.log.String(), "request to reconnect not followed")
				m.a.Sessions()[0].Reset()
				time.Sleep(time.Minute)
				require.Len(t, m.a.Sessions(), 2)
			})
		})
	}
}

// Events while the new connection is being made, or waits for a keyframe.
func TestReconnectRequestDuringOtherEvents(t *testing.T) {
	slow := forwardtest.Script{Steps: map[string]forwardtest.Step{"connect": {Delay: time.Second}}}
	for _, made := range []bool{true, false} {
		atB := []forwardtest.Script{{}}
		if !made {
			atB[0] = slow
		}
		for name, then := range map[string]func(m *moving){
			"the stream ends": func(m *moving) {
				m.p.Close()
				<-m.p.Source().Done()
				m.requireFrames(m.a.Sessions()[0], sequence(0, 15), true)
				frames, _ := numbers(m.b.Sessions()[0])
				require.Empty(m, frames)
			},
			"the forwarder is closed": func(m *moving) {
				require.NoError(m, m.f.Shutdown(m.Context()))
				m.requireFrames(m.a.Sessions()[0], sequence(0, 15), true)
				frames, _ := numbers(m.b.Sessions()[0])
				require.Empty(m, frames)
			},
			"the server closes": func(m *moving) {
				m.srv.Close()
			},
			"the old connection is lost": func(m *moving) {
				m.a.Sessions()[0].Reset()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Len(m, m.a.Sessions(), 1)
				feed(m.T, m.p, 15, 35)
				m.requireFrames(m.b.Sessions()[0], sequence(10, 35), false)
				require.NoError(m, m.f.Stats().LastErr)
			},
			"the new connection is lost": func(m *moving) {
				m.b.Sessions()[0].Reset()
				feed(m.T, m.p, 15, 35)
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Equal(m, forward.StatePublishing, m.f.Stats().State)
			},
			"it is replaced": func(m *moving) {
				c := m.net.NewDestination("c.example:1935")
				defer c.Close()
				result := make(chan error, 1)
				go func() {
					result <- m.f.Update(m.Context(), forward.Destination{URL: "rtmp://c.example/live/" + canary})
				}()
				synctest.Wait()
				feed(m.T, m.p, 15, 35)
				require.NoError(m, <-result)
				synctest.Wait()
				m.requireFrames(m.a.Sessions()[0], sequence(0, 20), true)
				m.requireFrames(c.Sessions()[0], sequence(20, 35), false)
				frames, _ := numbers(m.b.Sessions()[0])
				require.Empty(m, frames)
			},
		} {
			if !made {
				name += ", too soon"
			}
			t.Run(name, func(t *testing.T) {
				inMove(t, forward.Destination{}, nil, atB, func(m *moving) {
					t := m.T
					asksToReconnect(t, m.a.Sessions()[0], "rtmp://a.example:1936/live")
					require.Len(t, m.b.Sessions(), 1)
					then(m)
				})
			})
		}
	}
}

// A ReconnectRequest is not forwarded, because it concerns only the connection that receives
// it.
func TestReconnectRequestIsNotPassedOn(t *testing.T) {
	inMove(t, forward.Destination{}, nil, nil, func(m *moving) {
		t := m.T
		l, err := m.net.Listen("server:1935")
		require.NoError(t, err)
		go m.srv.Serve(l)
		pub, err := forwardtest.Client{URL: "rtmp://server/live/2", Dial: m.net.Dial}.Publish(context.Background())
		require.NoError(t, err)
		defer pub.Close()
		player, err := forwardtest.Client{URL: "rtmp://server/live/s", Dial: m.net.Dial}.Play(context.Background(), nil)
		require.NoError(t, err)
		defer player.Close()
		asksToReconnect(t, m.a.Sessions()[0], "rtmp://a.example:1936/live")
		feed(t, m.p, 15, 35)
		var log bytes.Buffer
		for _, c := range append(pub.Commands(), player.Commands()...) {
			log.WriteString(c.Name)
			for _, a := range c.Args {
				if info, ok := a.(map[string]any); ok {
					log.WriteString(info["code"].(string))
				}
			}
		}
		require.NotContains(t, log.String(), "Reconnect")
	})
}
