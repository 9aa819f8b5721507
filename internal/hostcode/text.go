package hostcode

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// Text returns the text of an error for people, without the names of packages and system
// calls: "connection refused (192.0.2.1:1935)" for "dial tcp 192.0.2.1:1935: connect:
// connection refused".
func Text(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || op.Addr == nil {
		return strings.TrimPrefix(err.Error(), "forward: ")
	}
	cause := op.Err
	if call := new(os.SyscallError); errors.As(cause, &call) {
		cause = call.Err
	}
	return fmt.Sprintf("%v (%v)", cause, op.Addr)
}
