//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

// The user and password of the tests with authentication. FFmpeg sends them exactly as
// in the URL.
const user, password = "encoder", "p4ss+w=rd&%20"

// passwords is a Config.PublishAuth.
func passwords(name string) (forward.Secret, bool) { return password, name == user }

// askedRoles are the matrix roles of the publishers, by authentication method.
var askedRoles = map[forward.AuthMethod]string{forward.AuthAdobe: withPassword, forward.AuthLimelight: withLimelight}

// askedPublisher publishes to a server that requires a password.
type askedPublisher struct {
	name    string
	methods []forward.AuthMethod
	publish func(t *testing.T, c *clip, addr, stream, password string) error
	muxed   func(t *testing.T, c *clip) []tag
}

var (
	adobe     = []forward.AuthMethod{forward.AuthAdobe}
	limelight = []forward.AuthMethod{forward.AuthLimelight}
	both      = slices.Concat(adobe, limelight)
)

// askedPublishers uses only OBS's librtmp for Adobe's method. Debian's librtmp with
// GnuTLS does not terminate its base64 and writes past its buffer (PublisherAuth in its
// rtmp.c).
var askedPublishers = []askedPublisher{
	{"forward", both, forwardAsked, nil},
	askedFFmpeg("ffmpeg"),
	// GStreamer is challenged only if its flashVer says FMLE, which is not its default.
	// It does not support Limelight's method.
	{"GStreamer rtmp2sink", adobe, func(t *testing.T, c *clip, addr, stream, password string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmp2sink", "location=rtmp://"+addr+"/live/"+stream,
			"flash-version=FMLE/3.0", "username="+user, "password="+password, "sync=true")...).wait()
	}, gstMuxed},
	{"librtmp (rtmpsink)", limelight, func(t *testing.T, c *clip, addr, stream, password string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmpsink", "location=rtmp://"+addr+"/live/"+stream+
			" live=1 flashVer=FMLE/3.0 pubUser="+user+" pubPasswd="+password, "sync=true")...).wait()
	}, gstMuxed},
}

// forwardAsked pushes to a server that requires a password, until it refuses.
func forwardAsked(t *testing.T, c *clip, addr, stream, password string) error {
	refused := make(chan error, 1)
	s := newServer(t, forward.Config{
		Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
			return []forward.Destination{{
				URL: "rtmp://" + addr + "/live", StreamKey: forward.Secret(stream), User: user, Password: forward.Secret(password),
			}}, nil
		}),
		Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
			if state == forward.StateWaiting {
				select {
				case refused <- err:
				default:
				}
			}
		}},
	})
	published := make(chan error, 1)
	go func() { published <- s.publish(t, stream, c, func() {}, func(uint32) {}) }()
	select {
	case err := <-published:
		return err
	case err := <-refused:
		s.Close()
		<-published
		return err
	}
}

// isRefused reports whether a publisher has exited as after a wrong password.
func isRefused(err error) bool {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.Exited()
	}
	var de *forward.DestinationError
	return errors.As(err, &de) && de.Code == "NetConnection.Connect.Rejected"
}

func askedFFmpeg(program string) askedPublisher {
	return askedPublisher{"ffmpeg " + ffmpegVersion(program), both, func(t *testing.T, c *clip, addr, stream, password string) error {
		return ffmpegPublish(t, program, c, "rtmp://"+user+":"+password+"@"+addr+"/live/"+stream)
	}, nil}
}

// TestPasswords lets publishers answer the server's challenge, with the right and with
// a wrong password.
func TestPasswords(t *testing.T) {
	needAll(t)
	c := h264aac(t)
	for method, role := range askedRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			testPasswords(t, c, method, role)
		})
	}
}

func testPasswords(t *testing.T, c *clip, method forward.AuthMethod, role string) {
	var wrong atomic.Int64 // publishes that must not happen
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w := &world{t: t, c: c, ctx: ctx}
	w.slave = newServer(t, forward.Config{PublishAuth: passwords, PublishAuthMethod: method, Hooks: forward.Hooks{
		OnPublish: func(_ context.Context, req *forward.Request) error {
			if req.User != user || strings.HasPrefix(req.Stream, "wrong") {
				wrong.Add(1)
			}
			return nil
		},
	}})
	for i, p := range askedPublishers {
		if !slices.Contains(p.methods, method) {
			table.cannot(role, p.name, c)
			table.cannot(role+", a wrong refused", p.name, c)
			continue
		}
		want := c.tags
		if p.muxed != nil {
			want = p.muxed(t, c)
		}
		w.raw(w.slave.addr, "live", fmt.Sprint("from-", i), role, p.name, func(_, got []tag) error {
			return checkRun(want, got, rule{})
		})
	}
	w.awaitRaw()
	eventually(t, "the players", func() bool { return w.slave.plays.Load() == int64(len(w.live)) })
	for i, p := range askedPublishers {
		if !slices.Contains(p.methods, method) {
			continue
		}
		w.wg.Go(func() {
			if err := p.publish(t, c, w.slave.addr, fmt.Sprint("from-", i), password); err != nil {
				t.Errorf("%s publishes: %v", p.name, err)
			}
		})
		w.wg.Go(func() {
			err := p.publish(t, c, w.slave.addr, fmt.Sprint("wrong-", i), password+"x")
			if isRefused(err) {
				err = nil
			} else {
				err = fmt.Errorf("a wrong password: %w", err)
				t.Errorf("%s publishes: %v", p.name, err)
			}
			table.set(role+", a wrong refused", p.name, c, err)
		})
	}
	w.wg.Wait()
	require.Zero(t, wrong.Load())
}
