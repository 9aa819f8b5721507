package hostcode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The first failure of a cause is logged, then one every ten minutes with the number of
// the others, and the recovery.
func TestOutageIsToldOnceAndThenWithTheNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outage
		_, _, ok := o.Over()
		require.False(t, ok, "nothing has failed")
		n, ok := o.Note("down")
		require.True(t, ok)
		require.Zero(t, n)
		for range 5 {
			_, ok = o.Note("down")
			require.False(t, ok)
		}
		_, ok = o.Note("another cause")
		require.True(t, ok)
		time.Sleep(OutageEvery)
		n, ok = o.Note("down")
		require.True(t, ok)
		require.Equal(t, 5, n)
		o.Note("down")
		lasted, n, ok := o.Over()
		require.True(t, ok)
		require.Equal(t, OutageEvery, lasted)
		require.Equal(t, 1, n)
		_, _, ok = o.Over()
		require.False(t, ok, "told once")
		require.Equal(t, []any{"a", 1, "not_logged", 2}, WithLeftOut(2, "a", 1))
		require.Equal(t, []any{"a", 1}, WithLeftOut(0, "a", 1))
	})
}

// An outage after a recovery is logged, at most once per minute.
func TestOutageAfterARecoveryIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outage
		told, over := 0, 0
		for range 10 * 60 { // fails and recovers for 10 minutes
			if _, ok := o.Note("down"); ok {
				told++
			}
			if _, _, ok := o.Over(); ok {
				over++
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, 10, told)
		require.Equal(t, 10, over)
	})
}

func TestSomeCausesAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outage
		told := 0
		for i := range 1000 {
			if _, ok := o.Note(fmt.Sprint(i)); ok {
				told++
			}
		}
		require.Equal(t, maxCauses+1, told)
		require.LessOrEqual(t, len(o.causes), maxCauses+1)
	})
}

// Failures that differ only in addresses and times have the same cause.
func TestCauseOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("%w: 7 calls are under way", ErrBusy), "busy"},
		{fmt.Errorf("within 3 s: %w", context.DeadlineExceeded), "no answer"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "no answer"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "h"}}, "name"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, syscall.ECONNREFUSED.Error()},
		{fmt.Errorf("read reply: %w", io.ErrUnexpectedEOF), "closed"},
		{&net.OpError{Op: "dial", Err: errors.New("at 10.0.0.1")}, "dial"},
		{errors.New("status 500"), "status 500"},
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{
			Cert: new(x509.Certificate), Reason: x509.Expired, Detail: "current time is " + time.Now().String(),
		}}, "certificate, reason 1"},
	} {
		require.Equal(t, tt.want, CauseOf(tt.err))
	}
}
