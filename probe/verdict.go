package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// explain returns what is wrong, in a sentence, and what to do about it, in another or
// none.
func (p *probe) explain(err error) (what, do string) {
	var de *forward.DestinationError
	switch {
	case errors.Is(err, forward.ErrDuplicate):
		return "This server is connected to the destination now, or is probing it.",
			"The state of that forwarder tells how it is; a second publish could disconnect it."
	case errors.Is(err, forward.ErrServerClosed):
		return "The server is shutting down.", ""
	case !errors.As(err, &de):
		return sentence(clean(err.Error(), 2*maxText)), "Correct the destination."
	case errors.Is(p.stopped, context.DeadlineExceeded):
		return "The time for the whole probe is over.", "Allow it more time."
	case p.stopped != nil:
		return "The probe was cancelled.", ""
	}
	err = de.Err
	if what, do := p.refusedHere(err); what != "" {
		return what, do
	}
	switch de.Op {
	case forward.OpResolve:
		return p.unresolved(err)
	case forward.OpDial:
		return p.undialled(err)
	case forward.OpTLS:
		return p.insecure(err)
	case forward.OpHandshake:
		return p.unshaken(err)
	case forward.OpConnect:
		return p.unconnected(err)
	case forward.OpCreateStream, forward.OpPublish, forward.OpRead:
		return p.unpublished(de)
	}
	return sentence(clean(err.Error(), 2*maxText)), ""
}

// refusedHere explains what this side does not do.
func (p *probe) refusedHere(err error) (what, do string) {
	var addr *forward.AddressError
	switch {
	case errors.Is(err, forward.ErrLoop):
		return "The destination is this server itself, or leads back to it.", "Forward the stream to another server."
	case errors.As(err, &addr):
		return "The address of the destination is not allowed: " + clean(addr.Error(), maxText) + ".",
			"If it is right, allow it in the configuration of this server."
	}
	return "", ""
}

func (p *probe) unresolved(err error) (what, do string) {
	var dns *net.DNSError
	name := clean(p.at.Host, maxName)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("The name %s does not exist or has no address.", name), "Check the host in the URL."
	case isTimeout(err):
		return fmt.Sprintf("The name server did not answer the question for %s in time.", name), "Check the network and the name server of this machine."
	}
	return fmt.Sprintf("The name %s cannot be looked up.", name), "Check the network and the name server of this machine."
}

// place is the host and port that are connected to.
func (p *probe) place() string { return clean(net.JoinHostPort(p.at.Host, p.at.Port), maxName+8) }

func (p *probe) undialled(err error) (what, do string) {
	switch {
	case isTimeout(err):
		return fmt.Sprintf("There was no answer from %s within %s.", p.place(), seconds(p.facts.Took)),
			"Check host and port, and whether a firewall drops the connection."
	case isErrno(err, syscall.ECONNREFUSED, 10061):
		return fmt.Sprintf("%s refuses connections.", p.place()),
			"Check host and port, and whether the server is running: nothing listens on this port, or a firewall rejects the connection."
	case isErrno(err, syscall.ENETUNREACH, 10051), isErrno(err, syscall.EHOSTUNREACH, 10065):
		return fmt.Sprintf("This machine has no route to %s.", p.place()), "Check the network of this machine, and the address."
	}
	return fmt.Sprintf("The connection to %s has failed: %s.", p.place(), clean(err.Error(), maxText)), "Check host and port."
}

func (p *probe) insecure(err error) (what, do string) {
	var noTLS tls.RecordHeaderError
	var bad *tls.CertificateVerificationError
	var pinned *x509.Certificate
	if s := p.facts.TLS; s != nil && len(s.PeerCertificates) > 0 {
		pinned = s.PeerCertificates[0]
	}
	switch {
	case errors.Is(err, upstream.ErrPin):
		what = "The public key of the server is not the one of the fingerprint."
		if pinned != nil {
			what = fmt.Sprintf("The public key of the server is not the one of the fingerprint: its SHA-256 is %s.", keyOf(pinned))
		}
		return what, "If the operator of the server confirms the new key, change the fingerprint. If not, another server may have answered."
	case errors.As(err, &bad) && len(bad.UnverifiedCertificates) > 0:
		return p.unverified(bad)
	case errors.As(err, &noTLS):
		if string(noTLS.RecordHeader[:]) == "HTTP/" {
			return fmt.Sprintf("The server at %s speaks HTTP, not RTMP over TLS.", p.place()), "Use the port of its RTMP server."
		}
		return fmt.Sprintf("The server at %s does not speak TLS.", p.place()), "Use rtmp:// in the URL, or the server's port for rtmps://."
	case isTimeout(err):
		return fmt.Sprintf("The server at %s did not answer the TLS handshake within %s.", p.place(), seconds(p.facts.Took)),
			"If the port is not for TLS, use rtmp:// in the URL."
	case isClosed(err):
		return fmt.Sprintf("The server at %s ended the connection during the TLS handshake.", p.place()),
			"If the port is not for TLS, use rtmp:// in the URL."
	case upstream.IsAlert(err):
		return "The server ended the TLS handshake with an alert: " + alert(err) + ".",
			"Check the name of the server, and whether it requires a client certificate or an older version of TLS."
	}
	return "The TLS handshake failed: " + clean(err.Error(), maxText) + ".", ""
}

// alert is the text of an alert, which Go words.
func alert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return clean(strings.TrimPrefix(op.Err.Error(), "tls: "), maxText)
	}
	return "unknown"
}

// unverified explains why a certificate is not accepted.
func (p *probe) unverified(err *tls.CertificateVerificationError) (what, do string) {
	cert := err.UnverifiedCertificates[0]
	trust := fmt.Sprintf("If you trust this server, set the fingerprint of the destination to that of its key: %s.", keyOf(cert))
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if strings.Contains(invalid.Detail, " before ") { // Go has one reason for both ends of its time
			return fmt.Sprintf("The certificate of the server is not valid before %s.", day(cert.NotBefore)), "Check the clock of this machine."
		}
		return fmt.Sprintf("The certificate of the server expired on %s.", day(cert.NotAfter)),
			"The operator of the server must renew it. " + trust
	case errors.As(err, &name):
		return fmt.Sprintf("The certificate of the server is for %s, and not for %s.", names(cert), clean(p.at.ServerName, maxName)),
			"Use a name of the certificate in the URL, or set it as the server name of the destination."
	case errors.As(err, &unknown):
		return fmt.Sprintf("The certificate of the server comes from %s, which this machine does not trust.", quoted(nameOf(cert.Issuer.CommonName, cert.Issuer.Organization))), trust
	}
	return "The certificate of the server is not accepted: " + clean(err.Err.Error(), maxText) + ".", trust
}

func (p *probe) unshaken(err error) (what, do string) {
	var version rtmp.VersionError
	if errors.As(err, &version) {
		switch {
		case version.OtherProtocol() && version < ' ':
			return fmt.Sprintf("The server at %s speaks TLS.", p.place()), "Use rtmps:// in the URL."
		case version.OtherProtocol():
			return fmt.Sprintf("The server at %s speaks HTTP, not RTMP.", p.place()),
				"Use the port of its RTMP server: usually 1935 for rtmp:// and 443 for rtmps://."
		}
		return fmt.Sprintf("The server at %s does not speak RTMP.", p.place()), "Check host and port."
	}
	hint := "Check that the port is that of an RTMP server."
	switch {
	case p.at.Scheme == "rtmp" && p.at.Port == "443":
		hint = "Use rtmps:// in the URL: port 443 is usually for TLS."
	case p.at.Scheme == "rtmp":
		hint = "Check that the port is that of an RTMP server. If it is for TLS, use rtmps:// in the URL."
	}
	switch {
	case isTimeout(err):
		return fmt.Sprintf("The server at %s did not answer the RTMP handshake within %s.", p.place(), seconds(p.facts.Took)), hint
	case isClosed(err):
		return fmt.Sprintf("The server at %s ended the connection during the RTMP handshake.", p.place()), hint
	}
	return "The RTMP handshake failed: " + clean(err.Error(), maxText) + ".", hint
}

func (p *probe) unconnected(err error) (what, do string) {
	var sent *rtmp.Redirect
	var st *rtmp.StatusError
	switch {
	case errors.Is(err, upstream.ErrRedirects):
		return fmt.Sprintf("The server has redirected more than %d times, the last time to %s.", upstream.MaxRedirects, clean(p.redirect.To, maxText)),
			"It may redirect in a circle: ask its operator for the right URL."
	case errors.As(err, &sent):
		why := "it is not allowed"
		if p.redirect.Err != nil {
			why = clean(p.redirect.Err.Error(), maxText)
		}
		return fmt.Sprintf("The server redirects to %s, which is not followed: %s.", clean(p.redirect.To, maxText), why),
			"Use that URL, or let the destination follow such redirects."
	case errors.As(err, &st):
		return p.refusedApp(st)
	case isTimeout(err):
		return fmt.Sprintf("The server did not answer connect within %s.", seconds(p.facts.Took)),
			"It may be waiting for its own backend: ask its operator."
	case isClosed(err):
		return "The server ended the connection instead of answering connect.",
			"Check the app, which is the part of the URL before the stream key: some servers do this for an app that they do not know."
	}
	return "The server's answer to connect cannot be read: " + clean(err.Error(), maxText) + ".", "Check that it is an RTMP server."
}

func (p *probe) refusedApp(st *rtmp.StatusError) (what, do string) {
	needs := strings.Contains(st.Description, "authmod=") || strings.Contains(st.Description, "authfail")
	switch {
	case p.asked > 0:
		return "The server refuses the user or the password.", "Check both."
	case needs && p.at.User == "":
		return "The server requires a user and a password.", "Set both for the destination."
	case needs:
		return "The server refuses the user, or asks for the password in a way that is not supported.", "Check user and password with its operator."
	}
	return fmt.Sprintf("The server refuses the app%s.", code(st)), "Check the app, which is the part of the URL before the stream key."
}

func (p *probe) unpublished(de *forward.DestinationError) (what, do string) {
	var st *rtmp.StatusError
	keyOrTaken := "Check the stream key. If it is right, another encoder may be publishing with it now."
	switch {
	case errors.As(de, &st) && de.Op == forward.OpRead:
		return fmt.Sprintf("The server has accepted the publish, and then refused it%s.", code(st)), keyOrTaken
	case errors.As(de, &st) && st.Code == "NetStream.Publish.BadName":
		return fmt.Sprintf("The server refuses the stream key%s.", code(st)), keyOrTaken
	case errors.As(de, &st):
		return fmt.Sprintf("The server refuses the publish%s.", code(st)), keyOrTaken
	case isClosed(de.Err) && de.Op == forward.OpRead:
		return "The server has accepted the publish, and then ended the connection.",
			"Some servers do this when they refuse a stream key or a client. " + keyOrTaken
	case isTimeout(de.Err):
		return fmt.Sprintf("The server did not answer %s within %s.", de.Op, seconds(p.facts.Took)),
			"It may be waiting for its own backend: ask its operator, or allow it more time."
	case isClosed(de.Err):
		return fmt.Sprintf("The server ended the connection instead of answering %s.", de.Op),
			"Check the stream key: some servers do this when they refuse one. The key may also be in use, or used up."
	}
	return fmt.Sprintf("The server's answer to %s cannot be read: %s.", de.Op, clean(de.Err.Error(), maxText)), ""
}

// code is the code of a refusal in brackets, after a space, or empty if it does not have
// the usual form.
func code(st *rtmp.StatusError) string {
	if !st.Usual() {
		return ""
	}
	return " (" + st.Code + ")"
}

// isTimeout reports whether a time limit has passed.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// isClosed reports whether the peer has ended the connection.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		isErrno(err, syscall.ECONNRESET, 10054) || isErrno(err, syscall.EPIPE, 10053)
}

// isErrno reports whether the system has reported an error. Windows has numbers of its
// own for those of sockets.
func isErrno(err error, errno, windows syscall.Errno) bool {
	return errors.Is(err, errno) || runtime.GOOS == "windows" && errors.Is(err, windows)
}
