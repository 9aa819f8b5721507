package forward

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

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/internal/upstream"
)

func TestRedirected(t *testing.T) {
	const key = "k?t=" + canary
	plain := Destination{URL: "rtmp://a.example/live?x=1", StreamKey: key, User: "jo", Password: canary, Timestamps: TimestampsZero}
	secure := Destination{URL: "rtmps://a.example:1443/live/more", StreamKey: key, ServerName: "name.example"}
	anywhere := func(d Destination) Destination { d.Redirect = RedirectAnywhere; return d }
	for _, c := range []struct {
		name string
		d    Destination
		ref  string
		want string // tcUrl
		err  error
	}{
		{"nothing", plain, "", "rtmp://a.example/live?x=1", nil},
		{"another port", plain, "rtmp://a.example:1936/live", "rtmp://a.example:1936/live", nil},
		{"another app, in capitals", plain, "RTMP://A.Example/other/inst", "rtmp://A.Example/other/inst", nil},
		{"no path", plain, "rtmp://a.example:1936", "rtmp://a.example:1936/live?x=1", nil},
		{"no path but a slash", plain, "rtmp://a.example:1936/", "rtmp://a.example:1936/live?x=1", nil},
		{"to TLS", plain, "rtmps://a.example/live", "rtmps://a.example/live", nil},
		{"without a scheme", secure, "//a.example/live", "rtmps://a.example/live", nil},
		{"a path", secure, "/other?y=1", "rtmps://a.example:1443/other?y=1", nil},
		{"a relative path", secure, "other", "rtmps://a.example:1443/live/other", nil},
		{"a relative path of one element", plain, "other", "rtmp://a.example/other", nil},
		{"no app", plain, "/", "", errRedirectURL},
		{"the name of the certificate", secure, "rtmps://name.example/live", "rtmps://name.example/live", nil},
		{"a key in it", plain, "rtmp://a.example/live/k2", "rtmp://a.example/live/k2", nil}, // an instance, for all we know

		{"another host", plain, "rtmp://b.example/live", "", errRedirectHost},
		{"a host that begins so", plain, "rtmp://a.example.org/live", "", errRedirectHost},
		{"a host behind a user", plain, "rtmp://a.example@b.example/live", "", errRedirectURL},
		{"a user", plain, "rtmp://al:x@a.example/live", "", errRedirectURL},
		{"from TLS", secure, "rtmp://a.example/live", "", errRedirectTLS},
		{"from TLS, anywhere", anywhere(secure), "rtmp://b.example/live", "", errRedirectTLS},
		{"a low port", plain, "rtmp://a.example:22/live", "", errRedirectPort},
		{"a low port of four digits", plain, "rtmp://a.example:1023/live", "", errRedirectPort},
		{"port 443", plain, "rtmp://a.example:443/live", "rtmp://a.example:443/live", nil},
		{"another scheme", plain, "http://a.example/live", "", errRedirectURL},
		{"a file", plain, "file:///etc/passwd", "", errRedirectURL},
		{"no host", plain, "rtmp:///live", "", errRedirectURL},
		{"a bad port", plain, "rtmp://a.example:x/live", "", errRedirectURL},
		{"too long", plain, "rtmp://a.example/" + strings.Repeat("a", 4096), "", errRedirectURL},

		{"anywhere", anywhere(plain), "rtmp://b.example/live", "rtmp://b.example/live", nil},
		{"anywhere, same host", anywhere(plain), "rtmp://a.example/b", "rtmp://a.example/b", nil},
		{"never", Destination{URL: plain.URL, StreamKey: key, Redirect: RedirectNever}, "rtmp://a.example/b", "", errRedirectNever},
		{"never, nothing", Destination{URL: plain.URL, StreamKey: key, Redirect: RedirectNever}, "", "", errRedirectNever},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := c.d.endpoint()
			require.NoError(t, err)
			e, err := c.d.redirected(new(Config), at, c.ref)
			require.ErrorIs(t, err, c.err)
			if c.err != nil {
				return
			}
			require.Equal(t, c.want, e.TcURL)
			require.Equal(t, key, e.Key)
			require.Equal(t, at.User, e.User)
			require.Equal(t, at.Password, e.Password)
			require.Equal(t, string(c.d.Timestamps), e.Times)
			other := strings.Contains(c.want, "b.example")
			require.Equal(t, other, e.Untrusted, "what another server names is not trusted")
			if other {
				require.Equal(t, "b.example", e.ServerName)
			} else {
				require.Equal(t, at.ServerName == "name.example", e.ServerName == "name.example")
			}
		})
	}
	require.ErrorContains(t, Destination{URL: "rtmp://h/a/k", Redirect: 3}.Validate(), "unknown Redirect")
}

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
		d        Destination
		first    []forwardtest.Script
		sessions [2]int // at a.example:1935 and b.example:1935
		err      error  // nil: publishing
	}{
		{"to another app", Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2"), {}}, [2]int{2, 0}, nil},
		{"three times", Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2"), sending("/app2"), sending("/app2"), {}}, [2]int{4, 0}, nil},
		{"four times", Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("/app2")}, [2]int{4, 0}, upstream.ErrRedirects},
		{"to another host", Destination{URL: "rtmp://a.example/app"}, []forwardtest.Script{sending("rtmp://b.example/app2?" + canary)}, [2]int{1, 0}, errRedirectHost},
		{"never", Destination{URL: "rtmp://a.example/app", Redirect: RedirectNever}, []forwardtest.Script{sending("/app2")}, [2]int{1, 0}, errRedirectNever},
		{"anywhere", Destination{URL: "rtmp://a.example/app", Redirect: RedirectAnywhere}, []forwardtest.Script{sending("rtmp://b.example/app2")}, [2]int{1, 1}, nil},
		{"asked for a password behind it", Destination{URL: "rtmp://jo:pw@a.example/app"},
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
				s := newServer(t, Config{Dial: network.Dial, Logger: secretscan.Logger(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
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
					require.Equal(t, StateWaiting, st.State)
					var de *DestinationError
					require.ErrorAs(t, st.LastErr, &de)
					require.Equal(t, OpConnect, de.Op)
					require.Equal(t, "NetConnection.Connect.Rejected", de.Code)
					require.False(t, de.Temporary())
					require.ErrorContains(t, de, c.err.Error())
					require.NotContains(t, de.Error(), canary)
					return
				}
				require.Equal(t, StatePublishing, st.State)
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

// Where a server sends us is checked behind the name, like what a backend says.
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
			s := newServer(t, Config{AllowNetworks: c.allow, Hooks: Hooks{OnForward: func(_ *Forwarder, state State, err error) {
				if state == StatePublishing || state == StateWaiting {
					select {
					case lost <- err:
					default:
					}
				}
			}}})
			_, err := publish(t, s, "live", "s").Source().Forward(Destination{URL: first.URL("app/key"), Redirect: RedirectAnywhere})
			require.NoError(t, err)
			err = <-lost
			if c.ok {
				require.NoError(t, err)
				return
			}
			var refused *AddressError
			require.ErrorAs(t, err, &refused)
			require.Empty(t, other.Sessions())
		})
	}
}

// asksToReconnect makes a session ask for it, in the words of Enhanced RTMP v2.
func asksToReconnect(t *testing.T, s *forwardtest.Session, tcURL string) {
	info := map[string]any{"level": "status", "code": "NetConnection.Connect.ReconnectRequest", "description": "The streaming server is undergoing updates."}
	if tcURL != "" {
		info["tcUrl"] = tcURL
	}
	require.NoError(t, s.Send(0, "onStatus", 0, nil, info))
	synctest.Wait()
}

// numbers are those of the frames that a session has got; ended says that it was
// told of the end.
func numbers(s *forwardtest.Session) (frames []int, ended bool) {
	for _, m := range s.Recorder().Messages() {
		if m.Type == TagVideo && m.Payload[1] == 1 {
			frames = append(frames, int(m.Payload[5])<<16|int(m.Payload[6])<<8|int(m.Payload[7]))
		}
	}
	for _, c := range s.Commands() {
		ended = ended || c.Name == "deleteStream"
	}
	return frames, ended
}

// moving is a stream that is pushed to a.example, of which frames 0 to 14 have
// been sent.
type moving struct {
	*testing.T
	net  *forwardtest.Network
	a, b *forwardtest.Destination // at ports 1935 and 1936
	srv  *Server
	p    *Publisher
	f    *Forwarder
	log  *logtest.Buffer
}

func inMove(t *testing.T, d Destination, atA, atB []forwardtest.Script, run func(m *moving)) {
	synctest.Test(t, func(t *testing.T) {
		m := &moving{T: t, net: new(forwardtest.Network), log: new(logtest.Buffer)}
		m.a, m.b = m.net.NewDestination("a.example:1935", atA...), m.net.NewDestination("a.example:1936", atB...)
		defer m.a.Close()
		defer m.b.Close()
		m.srv = newServer(t, Config{MergeWindow: -1, Dial: m.net.Dial, Logger: secretscan.Logger(slog.NewTextHandler(m.log, nil))})
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
			inMove(t, Destination{}, nil, nil, func(m *moving) {
				t := m.T
				asksToReconnect(t, m.a.Sessions()[0], tcURL)
				require.Len(t, m.b.Sessions(), 1, "it is publishing before the keyframe")
				_, err := m.b.Sessions()[0].WaitCommand(t.Context(), "publish")
				require.NoError(t, err)
				asksToReconnect(t, m.a.Sessions()[0], tcURL) // under way already
				before := m.f.Stats()
				feed(t, m.p, 15, 19)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 19), false)
				feed(t, m.p, 19, 35)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 20), true)
				m.requireFrames(m.b.Sessions()[0], sequence(20, 35), false)
				require.Len(t, m.a.Sessions(), 1)
				require.Len(t, m.b.Sessions(), 1)

				st := m.f.Stats()
				require.Equal(t, []*Forwarder{m.f}, m.p.Source().Forwarders(), "the same forwarder")
				require.Equal(t, StatePublishing, st.State)
				require.EqualValues(t, 2, st.Connects)
				require.EqualValues(t, 2, st.Accepted)
				require.EqualValues(t, 2+35, st.Messages, "each once")
				require.Greater(t, st.Bytes, before.Bytes)
				require.NoError(t, st.LastErr)

				// Soon again is too soon.
				asksToReconnect(t, m.b.Sessions()[0], "rtmp://a.example/live")
				feed(t, m.p, 35, 45)
				require.Len(t, m.a.Sessions(), 1)
				time.Sleep(moveEvery)
				asksToReconnect(t, m.b.Sessions()[0], "rtmp://a.example/live")
				feed(t, m.p, 45, 55)
				m.requireFrames(m.b.Sessions()[0], sequence(20, 50), true)
				m.requireFrames(m.a.Sessions()[1], sequence(50, 55), false)

				// One that is lost is looked for where the URL says.
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

// A server that has the stream published already gets it when it is not any
// more; nothing is lost.
func TestReconnectRequestToWhereItIsBusy(t *testing.T) {
	busy := forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}}
	inMove(t, Destination{}, []forwardtest.Script{{}, busy, {}}, nil, func(m *moving) {
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
		d  Destination
		to string
	}{
		"another host": {Destination{}, "rtmp://b.example/live/" + canary},
		"never":        {Destination{Redirect: RedirectNever}, "rtmp://a.example:1936/live"},
		"nobody there": {Destination{}, "rtmp://a.example:1937/live"},
		"refused":      {Destination{}, "rtmp://a.example:1936/live"},
	} {
		t.Run(name, func(t *testing.T) {
			inMove(t, c.d, nil, []forwardtest.Script{refuses}, func(m *moving) {
				t := m.T
				asksToReconnect(t, m.a.Sessions()[0], c.to)
				feed(t, m.p, 15, 35)
				m.requireFrames(m.a.Sessions()[0], sequence(0, 35), false)
				require.Equal(t, StatePublishing, m.f.Stats().State)
				require.Contains(t, m.log.String(), "request to reconnect not followed")
				m.a.Sessions()[0].Reset()
				time.Sleep(time.Minute)
				require.Len(t, m.a.Sessions(), 2)
			})
		})
	}
}

// What may happen while the new connection is there and waits for a keyframe, or
// is being made.
func TestReconnectRequestMeetsOtherEnds(t *testing.T) {
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
				require.Equal(m, StatePublishing, m.f.Stats().State)
			},
			"it is replaced": func(m *moving) {
				c := m.net.NewDestination("c.example:1935")
				defer c.Close()
				result := make(chan error, 1)
				go func() {
					result <- m.f.Update(m.Context(), Destination{URL: "rtmp://c.example/live/" + canary})
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
				inMove(t, Destination{}, nil, atB, func(m *moving) {
					t := m.T
					asksToReconnect(t, m.a.Sessions()[0], "rtmp://a.example:1936/live")
					require.Len(t, m.b.Sessions(), 1)
					then(m)
				})
			})
		}
	}
}

// A server has no such requests passed on: they are about its own connection.
func TestReconnectRequestIsNotPassedOn(t *testing.T) {
	inMove(t, Destination{}, nil, nil, func(m *moving) {
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

// Whatever a server says, key and password stay with the host, and with TLS.
func FuzzRedirected(f *testing.F) {
	for _, ref := range []string{"", "/a", "a", "//b/a", "rtmp://a.example:1936/live", "rtmps://A.example", "rtmp://a.example@b/a", "rtmp://a.example:1935\x00@b/", "RTMPS://[::1%25a]/x?y"} {
		f.Add(ref, true)
		f.Add(ref, false)
	}
	f.Fuzz(func(t *testing.T, ref string, secure bool) {
		d := Destination{URL: "rtmp://a.example/live?x=1", StreamKey: canary, User: "jo", Password: canary}
		if secure {
			d.URL = "rtmps://a.example/live?x=1"
		}
		for _, d.Redirect = range []Redirect{RedirectSameHost, RedirectAnywhere} {
			at, err := d.endpoint()
			require.NoError(t, err)
			e, err := d.redirected(new(Config), at, ref)
			if err != nil {
				require.NotContains(t, err.Error(), canary)
				require.Equal(t, at, e)
				continue
			}
			same := strings.EqualFold(e.Host, "a.example")
			require.True(t, same || d.Redirect == RedirectAnywhere && e.Untrusted)
			require.True(t, e.Scheme == "rtmps" || !secure && e.Scheme == "rtmp")
			require.Equal(t, []string{canary, "jo", canary}, []string{e.Key, e.User, e.Password})
			require.NotEmpty(t, e.App)
			require.NotEmpty(t, e.Port)
			require.True(t, strings.HasSuffix(e.TcURL, "/"+e.App), e.TcURL)
		}
	})
}
