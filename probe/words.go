package probe

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// describe returns what has happened in a step. ok is false if the step has failed.
func (p *probe) describe(s upstream.Step) (text string, ok bool) {
	switch s.Op {
	case upstream.OpResolve:
		return fmt.Sprintf("The name %s has %s.", clean(s.At.Host, maxName), addresses(s.Addrs)), s.Err == nil
	case upstream.OpDial:
		if s.Err != nil {
			return "", false
		}
		again := ""
		if p.dialled {
			again = " again"
		}
		p.dialled = true
		return fmt.Sprintf("Connected%s%s.", again, to(s.Addr)), true
	case upstream.OpTLS:
		return secured(s), s.Err == nil
	case upstream.OpHandshake:
		return "The RTMP handshake " + digests(s.Digest) + " succeeded.", s.Err == nil
	case upstream.OpConnect:
		var asked *rtmp.AuthRequired
		var sent *rtmp.Redirect
		switch {
		case errors.As(s.Err, &asked):
			if p.asked++; p.asked == 1 {
				return "The server asks for user and password.", true
			}
			return "The server has sent a challenge for the password.", true
		case errors.As(s.Err, &sent):
			return "The server redirects to another place.", true
		}
		return "The server has accepted the app. " + codecs(s.Video, s.Audio), s.Err == nil
	case upstream.OpRedirect:
		return fmt.Sprintf("The redirect to %s is followed.", clean(s.To, maxText)), s.Err == nil
	case upstream.OpCreateStream:
		return "The server has made a message stream.", s.Err == nil
	case upstream.OpPublish:
		return "The server has accepted the publish.", s.Err == nil
	}
	return "", s.Err == nil
}

// accepted returns the verdict about a destination that has accepted.
func (p *probe) accepted() string {
	if p.at.Profile.IsPlatform() {
		return "The destination has accepted the publish. Some platforms check the stream key only when media comes."
	}
	return "The destination has accepted the publish."
}

func digests(with bool) string {
	if with {
		return "with digests"
	}
	return "without digests"
}

// addresses lists the addresses of a name.
func addresses(addrs []netip.Addr) string {
	const most = 4
	var texts []string
	for _, a := range addrs[:min(len(addrs), most)] {
		texts = append(texts, a.String())
	}
	list := strings.Join(texts, ", ")
	switch {
	case len(addrs) == 1:
		return "the address " + list
	case len(addrs) > most:
		return fmt.Sprintf("%d addresses, the first of which are %s", len(addrs), list)
	}
	return "the addresses " + list
}

// to is the address of a connection, after a space, or empty.
func to(a net.Addr) string {
	if a == nil {
		return ""
	}
	return " to " + clean(a.String(), maxName)
}

// secured describes a TLS connection.
func secured(s upstream.Step) string {
	if s.Err != nil || s.TLS == nil {
		return ""
	}
	text := tls.VersionName(s.TLS.Version) + "."
	if len(s.TLS.PeerCertificates) == 0 {
		return text
	}
	cert := s.TLS.PeerCertificates[0]
	text += fmt.Sprintf(" The certificate is for %s, comes from %s and is valid until %s.",
		names(cert), quoted(nameOf(cert.Issuer.CommonName, cert.Issuer.Organization)), day(cert.NotAfter))
	if left := time.Until(cert.NotAfter); left > 0 && left < soon {
		text += " It expires in " + about(left) + "."
	}
	switch {
	case s.At.Pin != nil:
		text += " Its public key has the fingerprint of the destination; nothing else of it was checked."
	case len(s.TLS.VerifiedChains) == 0 && !s.TLS.DidResume:
		text += " It was not checked, because the host's TLS configuration says so."
	}
	return text
}

// about is a time in whole days or hours.
func about(d time.Duration) string {
	switch hours := int(d.Hours()); {
	case hours >= 48:
		return fmt.Sprintf("%d days", hours/24)
	case hours >= 2:
		return fmt.Sprintf("%d hours", hours)
	}
	return "less than 2 hours"
}

// soon is the time before a certificate expires from which a probe mentions it.
const soon = 14 * 24 * time.Hour

// names lists the first names of a certificate.
func names(cert *x509.Certificate) string {
	const most = 3
	all := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		all = append(all[:len(all):len(all)], ip.String())
	}
	if len(all) == 0 {
		return quoted(nameOf(cert.Subject.CommonName, cert.Subject.Organization))
	}
	var texts []string
	for _, n := range all[:min(len(all), most)] {
		texts = append(texts, quoted(n))
	}
	list := strings.Join(texts, ", ")
	if len(all) > most {
		list += fmt.Sprintf(" and %d more names", len(all)-most)
	}
	return list
}

func nameOf(common string, organization []string) string {
	if common == "" && len(organization) > 0 {
		return organization[0]
	}
	return common
}

// keyOf is the fingerprint of a certificate's key.
func keyOf(cert *x509.Certificate) string {
	return fmt.Sprintf("%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo))
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// codecs says which codecs a server lists.
func codecs(video, audio []string) string {
	v, a := fourCCs(video), fourCCs(audio)
	switch {
	case len(v) == 0 && len(a) == 0:
		return "It lists no codecs."
	case len(v) == 0:
		return fmt.Sprintf("It lists the audio codecs %s.", strings.Join(a, ", "))
	case len(a) == 0:
		return fmt.Sprintf("It lists the video codecs %s.", strings.Join(v, ", "))
	case v[0] == all && a[0] == all:
		return "It takes all codecs of Enhanced RTMP."
	}
	return fmt.Sprintf("It lists the video codecs %s, and the audio codecs %s.", strings.Join(v, ", "), strings.Join(a, ", "))
}

const all = "all"

// fourCCs are those of a list that are FourCCs, at most 16.
func fourCCs(list []string) (out []string) {
	for _, s := range list {
		switch {
		case s == "*":
			return []string{all}
		case len(s) == 4 && len(out) < 16 && !strings.ContainsFunc(s, func(r rune) bool {
			return r != '.' && r != '-' && (r >= utf8.RuneSelf || !unicode.IsLetter(r) && !unicode.IsDigit(r))
		}):
			out = append(out, s)
		}
	}
	return out
}

const (
	maxName = 253 // of a DNS name
	maxText = 256
)

// said joins a server's code and description.
func said(code, text string) string {
	if code != "" && text != "" {
		code += ": "
	}
	return clean(code+text, maxText)
}

// saidBy returns the words with which a server has refused.
func saidBy(err error) string {
	var st *rtmp.StatusError
	if !errors.As(err, &st) {
		return ""
	}
	return said(st.Code, st.Description)
}

// clean makes a text from outside fit to be shown: one line of at most n bytes, without
// characters that are invisible or change the direction of the text.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	s = s[:n-len("…")]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// quoted is a name that a server gives, in quotes.
func quoted(s string) string {
	return `"` + strings.ReplaceAll(clean(s, 100), `"`, "'") + `"`
}

// sentence makes a sentence of an error's text.
func sentence(s string) string {
	s = strings.TrimPrefix(s, "forward: ")
	first, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[n:] + "."
}

func join(what, do string) string { return strings.TrimSpace(what + " " + do) }

// seconds is a time for a person.
func seconds(d time.Duration) string {
	if d >= time.Second {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
