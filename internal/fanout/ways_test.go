//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fanout

import (
	"bytes"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOtherWays runs the tests of senders with the ways of writing that other systems and
// connections use.
func TestOtherWays(t *testing.T) {
	defer func() { change = func(*Sender) {} }()
	for way, c := range map[string]func(*Sender){
		"libc":     gatherer, // macOS, OpenBSD
		"portable": func(s *Sender) { s.raw, s.holder = nil, nil },
		"alone":    func(s *Sender) { s.holder = nil }, // connections of the host
	} {
		change = c
		for name, test := range map[string]func(*testing.T){
			"delivers": func(t *testing.T) {
				deliversEverything(t, func(a, b net.Conn) (net.Conn, net.Conn) { return a, b })
			},
			"slow":    TestSlowReceiverGoesOnAtAKeyframe,
			"many":    TestManyReceivers,
			"unread":  TestAnswersNobodyReadsEndTheConnection,
			"closed":  TestSenderAfterClose,
			"reset":   TestResetEndsTheSender,
			"stalled": TestFullSocketIsCutOff,
		} {
			t.Run(way+"/"+name, test)
		}
	}
}

// gatherer makes s send as on a system without vectored writes.
func gatherer(s *Sender) {
	s.holder = nil
	a := &s.try
	send := func(fd uintptr) {
		for {
			if a.n, a.err = gather(fd, a.iov); a.err != syscall.EINTR {
				return
			}
		}
	}
	a.once = send
	a.waiting = func(fd uintptr) bool { send(fd); return a.err != syscall.EAGAIN }
}

func TestResetEndsTheSender(t *testing.T) {
	a, b := tcpPair(t)
	snd := newSender(a, time.Minute)
	require.NoError(t, b.(*net.TCPConn).SetLinger(0))
	require.NoError(t, b.Close())
	for snd.Err() == nil {
		taken := snd.Stats().Bytes
		snd.Send(setChunkSize())
		for snd.Err() == nil && snd.Stats().Bytes == taken {
			runtime.Gosched()
		}
	}
	snd.Close()
	snd.Wait()
	var errno syscall.Errno
	require.ErrorAs(t, snd.Err(), &errno)
}

func TestFullSocketIsCutOff(t *testing.T) {
	s := newStream(1 << 30)
	g := NewGroup(s.log, NewPool())
	a, _ := tcpPair(t) // nobody reads
	a.(*net.TCPConn).SetWriteBuffer(64 << 10)
	snd := newSender(a, 50*time.Millisecond)
	g.Add(snd, options, end)
	for snd.Err() == nil {
		s.frame(10000)
		g.Wake()
	}
	snd.Wait()
	require.ErrorIs(t, snd.Err(), ErrStalled)
	require.NotZero(t, snd.Stats().Bytes)
}

// Each way reports exactly the bytes that a socket has accepted, whatever the slices are.
func TestWaysTakeEverything(t *testing.T) {
	for way, send := range map[string]func(uintptr, []syscall.Iovec) (int, syscall.Errno){"send": send, "gather": gather} {
		for name, lengths := range map[string][]int{
			"one":                {5},
			"a large one":        {3 * gathered},
			"small":              {1, 2, 3, 0, 5},
			"empty at the ends":  {0, 7, 0},
			"a buffer":           {gathered - 10, 10},
			"a buffer and a bit": {gathered - 10, 11},
			"large ones":         {12, gathered, 13, 2*gathered + 1, 14},
			"many":               slices.Repeat([]int{12, 4096}, 400),
		} {
			t.Run(way+"/"+name, func(t *testing.T) {
				fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
				require.NoError(t, err)
				defer syscall.Close(fds[1])
				for _, fd := range fds {
					require.NoError(t, syscall.SetNonblock(fd, true))
				}
				var want []byte
				var iov [][]byte
				rng := rand.NewChaCha8([32]byte{1})
				for _, n := range lengths {
					p := make([]byte, n)
					rng.Read(p)
					want = append(want, p...)
					iov = append(iov, p)
				}
				var got []byte
				buf := make([]byte, 1<<20)
				for sent := 0; sent < len(want); {
					n, errno := send(uintptr(fds[0]), new(ioScratch).convert(iov, nil))
					if errno == syscall.EAGAIN { // the peer reads only now
						n, err := syscall.Read(fds[1], buf)
						require.NoError(t, err)
						got = append(got, buf[:n]...)
						continue
					}
					require.Zero(t, errno)
					require.Positive(t, n)
					sent += n
					iov = dropFirst(iov, n)
				}
				require.NoError(t, syscall.Close(fds[0]))
				for {
					n, err := syscall.Read(fds[1], buf)
					require.NoError(t, err)
					if n == 0 {
						break
					}
					got = append(got, buf[:n]...)
				}
				require.True(t, bytes.Equal(want, got))
			})
		}
	}
}

func TestWaysTellOfErrors(t *testing.T) {
	for way, send := range map[string]func(uintptr, []syscall.Iovec) (int, syscall.Errno){"send": send, "gather": gather} {
		for _, iov := range [][][]byte{{{1}}, {{1}, {2}}} {
			fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			require.NoError(t, err)
			require.NoError(t, syscall.Close(fds[1]))
			n, errno := send(uintptr(fds[0]), new(ioScratch).convert(iov, nil))
			require.NoError(t, syscall.Close(fds[0]))
			require.Zero(t, max(n, 0), way)
			require.Equal(t, syscall.EPIPE, errno, way)
		}
	}
}
