//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

// The user and the password of the tests with authentication. FFmpeg sends
// what is in the URL as it is.
const user, password = "encoder", "p4ss+w=rd&%20"

// passwords is a Config.PublishAuth.
func passwords(name string) (forward.Secret, bool) { return password, name == user }

// askedPublisher publishes to a server that asks for a password.
type askedPublisher struct {
	name    string
	publish func(t *testing.T, c *clip, addr, stream, password string) error
	muxed   func(t *testing.T, c *clip) []tag
}

// askedPublishers has no librtmp but OBS's: Debian's, on GnuTLS, does not end
// its base64 with a zero and writes what follows behind what it has allocated
// (PublisherAuth in its rtmp.c), whoever asks.
var askedPublishers = []askedPublisher{
	askedFFmpeg("ffmpeg"),
	// Who says that it is no FMLE, as it does by itself, is not asked.
	{"GStreamer rtmp2sink", func(t *testing.T, c *clip, addr, stream, password string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmp2sink", "location=rtmp://"+addr+"/live/"+stream,
			"flash-version=FMLE/3.0", "username="+user, "password="+password, "sync=true")...).wait()
	}, gstMuxed},
}

func askedFFmpeg(program string) askedPublisher {
	return askedPublisher{"ffmpeg " + ffmpegVersion(program), func(t *testing.T, c *clip, addr, stream, password string) error {
		return ffmpegPublish(t, program, c, "rtmp://"+user+":"+password+"@"+addr+"/live/"+stream)
	}, nil}
}

// TestPasswords lets publishers answer the server's challenge, rightly and not.
func TestPasswords(t *testing.T) {
	needAll(t)
	c := h264aac(t)
	var wrong atomic.Int64 // publishes that must not be
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w := &world{t: t, c: c, ctx: ctx}
	w.slave = newServer(t, forward.Config{PublishAuth: passwords, Hooks: forward.Hooks{
		OnPublish: func(_ context.Context, req *forward.PublishRequest) error {
			if req.User != user || strings.HasPrefix(req.Stream, "wrong") {
				wrong.Add(1)
			}
			return nil
		},
	}})
	for i, p := range askedPublishers {
		want := c.tags
		if p.muxed != nil {
			want = p.muxed(t, c)
		}
		w.raw(w.slave.addr, "live", fmt.Sprint("from-", i), withPassword, p.name, func(_, got []tag) error {
			return checkRun(want, got, rule{})
		})
	}
	w.awaitRaw()
	eventually(t, "the players", func() bool { return w.slave.plays.Load() == int64(len(w.live)) })
	for i, p := range askedPublishers {
		w.wg.Go(func() {
			if err := p.publish(t, c, w.slave.addr, fmt.Sprint("from-", i), password); err != nil {
				t.Errorf("%s publishes: %v", p.name, err)
			}
		})
		w.wg.Go(func() {
			err := p.publish(t, c, w.slave.addr, fmt.Sprint("wrong-", i), password+"x")
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
				err = nil
			} else {
				err = fmt.Errorf("a wrong password: %w", err)
				t.Errorf("%s publishes: %v", p.name, err)
			}
			table.set(withPassword+", a wrong refused", p.name, c, err)
		})
	}
	w.wg.Wait()
	require.Zero(t, wrong.Load())
}
