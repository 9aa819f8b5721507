//go:build interop && linux && !race

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// TestMemoryOfDestinations compares the resident memory of two servers that push the
// same stream of 4 Mbit/s, to one destination and to 500. The race detector needs
// memory of its own, so this runs without it.
func TestMemoryOfDestinations(t *testing.T) {
	const (
		many  = 500
		limit = 64 << 10
		// By now the log has its full size: it keeps 10 s.
		settled = 14 * time.Second
	)
	s := newSink(t)
	one, all := s.child(t, 1), s.child(t, many)
	eventually(t, "all destinations publishing", func() bool { return s.taken.Load() == 1+many })
	<-time.After(settled)
	var ones, alls []int
	for range 21 {
		<-time.After(100 * time.Millisecond)
		ones, alls = append(ones, resident(t, one)), append(alls, resident(t, all))
	}
	require.EqualValues(t, 1+many, s.taken.Load(), "destinations were lost")
	a, b := median(ones), median(alls)
	each := (b - a) / (many - 1)
	t.Logf("resident: %d KB with 1 destination, %d KB with %d: %d bytes each", a>>10, b>>10, many, each)
	require.Less(t, each, limit)
}

func median(v []int) int {
	slices.Sort(v)
	return v[len(v)/2]
}

// resident is the resident memory of a process, in bytes.
func resident(t *testing.T, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	require.NotNil(t, m)
	kb, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kb << 10
}

// sink accepts all publishers and discards what they send.
type sink struct {
	addr  string
	taken atomic.Int64 // publishers that have sent media
}

func newSink(t *testing.T) *sink {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &sink{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.take(nc) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return s
}

func (s *sink) take(nc net.Conn) {
	defer nc.Close()
	if rtmp.ServerHandshake(nc) != nil {
		return
	}
	send := func(p []byte) error {
		_, err := nc.Write(p)
		return err
	}
	if err := rtmp.NewServer(rtmp.NewConn(nc, send, 4<<10, 4096, wide), taker{}).Serve(); !errors.Is(err, errTaken) {
		return
	}
	s.taken.Add(1)
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{nc}, make([]byte, 32<<10))
}

// errTaken ends the protocol at the first message of a publisher.
var errTaken = errors.New("taken")

type taker struct{}

func (taker) Connect(*rtmp.Connect) error  { return nil }
func (taker) Publish(uint32, string) error { return nil }
func (taker) Unpublish(uint32, bool)       {}
func (taker) Message(chunk.Message) error  { return errTaken }
func (taker) Play(uint32, string) error    { return errors.New("not a source") }
func (taker) Playing(uint32)               {}
func (taker) Pause(uint32, bool)           {}
func (taker) StopPlay(uint32)              {}

// child starts a server that pushes n times to s, and returns its process id.
func (s *sink) child(t *testing.T, n int) int {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", childEnv, n, s.addr))
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	var log bytes.Buffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("server for %d destinations: %v: %s", n, err, log.Bytes())
		}
	})
	return cmd.Process.Pid
}
