package conf

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

func integer(what string, lowest, highest uint64) *value {
	return &value{
		expected: fmt.Sprintf("%s from %d to %d", what, lowest, highest),
		valid: func(s string) bool {
			n, err := strconv.ParseUint(s, 10, 64)
			return err == nil && lowest <= n && n <= highest
		},
	}
}

func text(what string, shortest, longest int, secret bool) *value {
	return &value{
		expected: fmt.Sprintf("%s of %d to %d bytes without control characters", what, shortest, longest),
		valid: func(s string) bool {
			return shortest <= len(s) && len(s) <= longest && !strings.ContainsFunc(s, unicode.IsControl)
		},
		secret: secret,
	}
}

func oneOf(words ...string) *value {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	return &value{
		expected: strings.Join(quoted[:last], ", ") + " or " + quoted[last],
		valid:    func(s string) bool { return slices.Contains(words, s) },
	}
}

func notEmpty(s string) bool { return s != "" }

// isToken accepts a token that a header can contain and that is hard to guess.
func isToken(s string) bool {
	return 16 <= len(s) && len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isHookSecret accepts a secret that can sign requests and is hard to guess.
func isHookSecret(s string) bool {
	if b64, ok := strings.CutPrefix(s, "whsec_"); ok {
		key, err := base64.StdEncoding.DecodeString(b64)
		return err == nil && len(key) >= 16
	}
	return 16 <= len(s) && len(s) <= 4096 && !strings.ContainsFunc(s, unicode.IsControl)
}

func isHostName(s string) bool { return isHost(s, false) }

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// isAddress accepts an empty host, which means every address of the machine, and port 0,
// which means any free port.
func isAddress(s string) bool {
	if isPort(s) {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port) {
		return false
	}
	return host == "" || isHost(host, s[0] == '[')
}

// isHost reports whether host can be a host. bracketed says that it was in brackets, as only
// an IPv6 address may be.
func isHost(host string, bracketed bool) bool {
	if bracketed {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6()
	}
	return host != "" && !strings.ContainsAny(host, ":/?#@[]% \t")
}

// isSHA256 ignores colons, which openssl writes.
func isSHA256(s string) bool {
	sum, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	return err == nil && len(sum) == sha256.Size
}

// isDestination checks what must be true of every destination. It does not check the part
// after a URL's host, because a stream key may contain anything, nor a host with a
// placeholder such as [vhost].
func isDestination(s string) bool {
	scheme, rest, isURL := strings.Cut(s, "://")
	if !isURL {
		return isHostPort(s)
	}
	if !strings.EqualFold(scheme, "rtmp") && !strings.EqualFold(scheme, "rtmps") {
		return false
	}
	if n := strings.IndexAny(rest, "/?#"); n >= 0 {
		rest = rest[:n]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	for _, placeholder := range []string{"[vhost]", "[app]", "[stream]", "[param]"} {
		if strings.Contains(rest, placeholder) {
			return true
		}
	}
	return isHostPort(rest)
}

// isHostPort accepts host, host:port, [ipv6] and [ipv6]:port.
func isHostPort(s string) bool {
	bracketed := strings.HasPrefix(s, "[")
	if bracketed && strings.HasSuffix(s, "]") {
		return isHost(s[1:len(s)-1], true)
	}
	if isHost(s, false) {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	return err == nil && isPort(port) && port != "0" && isHost(host, bracketed)
}

func isFailure(s string) bool {
	return s == "closed" || s == "open" || s == "last_good" || isHTTPURL(s) || isDestination(s)
}

func isHTTPURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		(u.Port() == "" || isPort(u.Port()))
}
