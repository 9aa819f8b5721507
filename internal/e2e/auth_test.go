package e2e

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// refusing is a Script that refuses connect like Flash Media Server's access manager.
func refusing(description string) forwardtest.Script {
	return forwardtest.Script{Steps: map[string]forwardtest.Step{"connect": {
		Refuse: "NetConnection.Connect.Rejected", Description: "[ AccessManager.Reject ] : [ " + description,
	}}}
}

// connectOf returns the app and tcUrl of a session's connect.
func connectOf(t *testing.T, s *forwardtest.Session) (app, tcURL any) {
	c, err := s.WaitCommand(t.Context(), "connect")
	require.NoError(t, err)
	props, _ := c.Args[0].(map[string]any)
	return props["app"], props["tcUrl"]
}

func TestForwarderAnswersChallenges(t *testing.T) {
	for _, c := range []struct {
		name, needUser, challenge string
		first, second             string // queries sent; the second is a prefix
	}{
		{"adobe", "code=403 need auth; authmod=adobe ] : ", "authmod=adobe ] : ?reason=needauth&user=jo%26co&salt=SaLt&challenge=c&opaque=0paque",
			"authmod=adobe&user=jo%26co", "authmod=adobe&user=jo%26co&challenge="},
		{"llnw", "code=403 need auth; authmod=llnw ] : ", "authmod=llnw ] : ?reason=needauth&user=jo%26co&nonce=N0nce",
			"authmod=llnw&user=jo%26co", "authmod=llnw&user=jo%26co&nonce=N0nce&cnonce="},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var net forwardtest.Network
				dest := net.NewDestination("dest:1935", refusing(c.needUser), refusing(c.challenge), forwardtest.Script{})
				defer dest.Close()
				s := newServer(t, forward.Config{Dial: net.Dial})
				f, err := publish(t, s, "live", canary).Source().Forward(forward.Destination{URL: "rtmp://jo%26co:pass%2Fword@dest/app?x=1", StreamKey: canary})
				require.NoError(t, err)
				synctest.Wait()
				st := f.Stats()
				require.Equal(t, forward.StatePublishing, st.State)
				require.EqualValues(t, 3, st.Connects)
				require.EqualValues(t, 1, st.Accepted)
				require.NoError(t, st.LastErr)

				sessions := dest.Sessions()
				require.Len(t, sessions, 3)
				for i, want := range []string{"", "&" + c.first, "&" + c.second} {
					app, tcURL := connectOf(t, sessions[i])
					require.True(t, strings.HasPrefix(app.(string), "app?x=1"+want), "%v", app)
					require.Equal(t, "rtmp://dest/"+app.(string), tcURL)
					require.Equal(t, i == 2, strings.Contains(app.(string), "&response="))
					require.NotContains(t, app, "pass")
				}
				cmd, err := sessions[2].WaitCommand(t.Context(), "publish")
				require.NoError(t, err)
				require.Equal(t, canary, cmd.String(1))
			})
		})
	}
}

func TestForwarderIsRefused(t *testing.T) {
	const needUser, failed = "code=403 need auth; authmod=adobe ] : ", "authmod=adobe ] : ?reason=authfailed&user=joanna&opaque=x"
	for _, c := range []struct {
		name, url string
		scripts   []forwardtest.Script
		connects  int
	}{
		{"without a user", "rtmp://dest/app/" + canary, []forwardtest.Script{refusing(needUser)}, 1},
		{"wrong password", "rtmp://joanna:pa55word@dest/app/" + canary,
			[]forwardtest.Script{refusing(needUser), refusing("authmod=adobe ] : ?reason=needauth&user=joanna&salt=s&opaque=o"), refusing(failed)}, 3},
		{"asked without end", "rtmp://joanna:pa55word@dest/app/" + canary, []forwardtest.Script{refusing("authmod=adobe ] : ?reason=needauth&user=joanna&salt=s")}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				var mu sync.Mutex
				var net forwardtest.Network
				dest := net.NewDestination("dest:1935", c.scripts...)
				defer dest.Close()
				s := newServer(t, forward.Config{Dial: net.Dial, Logger: secretscan.Logger(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					return log.Write(p)
				}), &slog.HandlerOptions{Level: slog.LevelDebug}))})
				f, err := publish(t, s, "live", canary).Source().Forward(forward.Destination{URL: c.url})
				require.NoError(t, err)
				synctest.Wait()
				st := f.Stats()
				require.Equal(t, forward.StateWaiting, st.State)
				require.EqualValues(t, c.connects, st.Connects)
				require.Len(t, dest.Sessions(), c.connects)

				var de *forward.DestinationError
				require.ErrorAs(t, st.LastErr, &de)
				require.Equal(t, forward.OpConnect, de.Op)
				require.Equal(t, "NetConnection.Connect.Rejected", de.Code)
				require.False(t, de.Temporary())
				mu.Lock()
				defer mu.Unlock()
				require.Contains(t, log.String(), "AccessManager.Reject")
				for _, secret := range []string{"joanna", "pa55word", "response="} {
					require.NotContains(t, st.LastErr.Error(), secret)
					require.NotContains(t, log.String(), secret)
				}
			})
		})
	}
}

func TestPublishAuth(t *testing.T) {
	for _, method := range []forward.AuthMethod{"", forward.AuthAdobe, forward.AuthLimelight} {
		t.Run(string(method), func(t *testing.T) { testPublishAuth(t, method) })
	}
}

func testPublishAuth(t *testing.T, method forward.AuthMethod) {
	const user, password = "jo & co@example.com", "p+ss/w&rd"
	synctest.Test(t, func(t *testing.T) {
		var requests []forward.Request
		var log bytes.Buffer
		s := newServer(t, forward.Config{
			Logger:      secretscan.Logger(slog.NewTextHandler(&log, nil)),
			PublishAuth: func(name string) (forward.Secret, bool) { return password, name == user },
			Resolver:    forward.MustStatic(),

			PublishAuthMethod: method,
			Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
				requests = append(requests, *req)
				return nil
			}},
		})
		ours := forwardtest.Client{URL: "rtmp://h/live/s?token=1", Dial: forwardtest.Direct(s), User: user, Password: password}

		p, err := ours.Publish(t.Context())
		require.NoError(t, err)
		defer p.Close()
		require.Len(t, requests, 1, "earlier connections publish nothing")
		require.Equal(t, user, requests[0].User)
		require.Equal(t, "live", requests[0].App)
		require.Equal(t, "rtmp://h:1935/live", requests[0].TcURL)
		require.Equal(t, "?token=1", requests[0].Param)
		synctest.Wait()
		require.Equal(t, 1, strings.Count(log.String(), "\n"), "the questions are no news: %s", &log)

		// Our own forwarder.
		from := newServer(t, forward.Config{Dial: forwardtest.Direct(s)})
		f, err := publish(t, from, "live", canary).Source().Forward(forward.Destination{URL: "rtmp://h/live/2", User: user, Password: password})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, forward.StatePublishing, f.Stats().State)
		require.Len(t, requests, 2)

		player, err := forwardtest.Client{URL: "rtmp://h/live/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
		require.NoError(t, err, "players are not asked")
		defer player.Close()

		for name, change := range map[string]func(*forwardtest.Client){
			"no user":        func(c *forwardtest.Client) { c.User, c.Password = "", "" },
			"wrong user":     func(c *forwardtest.Client) { c.User += "x" },
			"wrong password": func(c *forwardtest.Client) { c.Password += "x" },
		} {
			c := ours
			change(&c)
			_, err := c.Publish(t.Context())
			require.Equal(t, "NetConnection.Connect.Rejected", forwardtest.RefusalCode(err), name)
		}
		// A client that connects like a player cannot publish.
		c := ours
		c.FlashVer = "LNX 9,0,124,2"
		_, err = c.Publish(t.Context())
		var st *forwardtest.StatusError
		require.True(t, errors.As(err, &st))
		require.Equal(t, "publish", st.Step)
		require.Equal(t, "NetStream.Publish.Denied", st.Code)
		require.Len(t, requests, 2)
	})
}

func TestPublishAuthThatPanicsRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, forward.Config{PublishAuth: func(string) (forward.Secret, bool) { panic("no") }})
		_, err := forwardtest.Client{Dial: forwardtest.Direct(s), User: "jo", Password: "x"}.Publish(t.Context())
		require.Error(t, err)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
