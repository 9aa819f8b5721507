package hostcode

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1935}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: at, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for want, err := range map[string]error{
		syscall.ECONNREFUSED.Error() + " (192.0.2.1:1935)": fmt.Errorf("x: %w", refused),
		"i/o timeout (192.0.2.1:1935)":                     &net.OpError{Op: "dial", Net: "tcp", Addr: at, Err: os.ErrDeadlineExceeded},
		"read tcp 192.0.2.1:1935: eof":                     &net.OpError{Op: "read", Net: "tcp", Addr: at, Err: errors.New("eof")},
		"server closed":                                    errors.New("forward: server closed"),
	} {
		require.Equal(t, want, Text(err))
	}
}
