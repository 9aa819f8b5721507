// Package mention reports whether a text names a host, in whatever form either is
// written.
package mention

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what is decoded from a text. A text that exceeds them counts as naming
// every host.
const (
	maxForms = 256       // of all texts together
	maxBytes = 512 << 10 // of all forms together
)

// Text is a set of texts of a client, in all forms that they decode to.
type Text struct {
	forms string              // folded
	words map[string]struct{} // canonical names
	addrs map[netip.Addr]struct{}
	much  bool // a limit was exceeded
}

// In returns the Text of a client's texts. Each text is taken as it is, and with
// percent-encoding, JSON's \u, base64 and hexadecimal decoded, also nested in one
// another.
func In(texts ...string) *Text {
	t := &Text{words: make(map[string]struct{}), addrs: make(map[netip.Addr]struct{})}
	seen := make(map[string]bool)
	var queue []string
	add := func(s string) {
		if s != "" && !seen[s] {
			seen[s] = true
			queue = append(queue, s)
		}
	}
	for _, s := range texts {
		add(s)
	}
	var forms strings.Builder
	for n := 0; n < len(queue); n++ {
		s := queue[n]
		if n >= maxForms || forms.Len()+len(s) > maxBytes {
			t.much = true
			break
		}
		folded := fold(s)
		forms.WriteString(folded)
		forms.WriteByte('\n')
		t.note(folded)
		add(unescape(s))
		add(unescapeUnicode(s))
		decodeRuns(s, add)
	}
	t.forms = forms.String()
	return t
}

// Names reports whether the text names a host, which is a name or an address
// as in a URL, in brackets or not. Compared are
//
//   - names without case, trailing dot or zero-width characters, their
//     full-width forms and those of Punycode included, anywhere in the text
//     where they have a dot, else as a word;
//   - addresses by value: in decimal, hexadecimal or octal, with fewer than
//     four parts, in any spelling of IPv6, mapped or not, without zone.
func (t *Text) Names(host string) bool {
	if t.much {
		return true
	}
	host = fold(host)
	if addrs := parseAddrs(host); len(addrs) > 0 {
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { _, ok := t.addrs[a]; return ok })
	}
	name := canonical(host)
	if name == "" {
		return false
	}
	if strings.Contains(name, ".") && strings.Contains(t.forms, name) {
		return true
	}
	_, ok := t.words[name]
	return ok
}

var (
	wordChars = func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
	}
	quads = regexp.MustCompile(`[0-9]+(?:\.[0-9]+){3}`)
	// v6 starts and ends with characters of an address.
	v6 = regexp.MustCompile(`[0-9a-f:]*:[0-9a-f:.]*`)
)

// note collects the names and addresses in a folded text.
func (t *Text) note(s string) {
	for w := range strings.FieldsFuncSeq(s, func(r rune) bool { return !wordChars(r) }) {
		w = strings.Trim(w, ".")
		t.noteAddr(w)
		if len(w) == 8 {
			t.noteAddr("0x" + w)
		}
		t.words[canonical(w)] = struct{}{}
	}
	for _, q := range quads.FindAllString(s, -1) {
		t.noteAddr(q)
	}
	for _, a := range v6.FindAllString(s, -1) {
		a = strings.TrimRight(a, ".")
		t.noteAddr(a)
		t.noteAddr(strings.TrimPrefix(a, ":")) // after "name:"
		if i := strings.LastIndexByte(a, ':'); i > 0 {
			t.noteAddr(a[:i]) // before a port
		}
	}
}

func (t *Text) noteAddr(s string) {
	for _, a := range parseAddrs(s) {
		t.addrs[a] = struct{}{}
	}
}

// fold unifies the forms of a character that IDNA treats as equal: full width, the
// ideographic full stops and capitals. It drops characters that IDNA ignores.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == 0x3002, r == 0xff61:
			return '.'
		case r >= 0xff01 && r <= 0xff5e:
			r -= 0xff01 - '!'
		case r == 0xad, r >= 0x200b && r <= 0x200d, r == 0x2060, r == 0xfeff:
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// canonical is a folded name in ASCII, without its trailing dot.
func canonical(name string) string {
	name = strings.Trim(name, ".")
	if isASCII(name) {
		return name
	}
	labels := strings.Split(name, ".")
	for i, l := range labels {
		if !isASCII(l) {
			labels[i] = "xn--" + punycode(l)
		}
	}
	return strings.Join(labels, ".")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// punycode is the encoding of RFC 3492, 6.3.
func punycode(s string) string {
	const base, tmin, tmax, skew, damp = 36, 1, 26, 38, 700
	var out []byte
	runes := []rune(s)
	for _, r := range runes {
		if r < utf8.RuneSelf {
			out = append(out, byte(r))
		}
	}
	basic := len(out)
	handled := basic
	if basic > 0 {
		out = append(out, '-')
	}
	n, delta, bias := rune(128), 0, 72
	for handled < len(runes) {
		next := rune(unicode.MaxRune)
		for _, r := range runes {
			if r >= n && r < next {
				next = r
			}
		}
		delta += int(next-n) * (handled + 1)
		n = next
		for _, r := range runes {
			if r < n {
				delta++
			}
			if r != n {
				continue
			}
			q := delta
			for k := base; ; k += base {
				limit := min(max(k-bias, tmin), tmax)
				if q < limit {
					break
				}
				out = append(out, digit(limit+(q-limit)%(base-limit)))
				q = (q - limit) / (base - limit)
			}
			out = append(out, digit(q))
			if delta /= 2; handled == basic {
				delta = delta * 2 / damp
			}
			delta += delta / (handled + 1)
			k := 0
			for ; delta > (base-tmin)*tmax/2; k += base {
				delta /= base - tmin
			}
			bias = k + (base-tmin+1)*delta/(delta+skew)
			delta = 0
			handled++
		}
		delta++
		n++
	}
	return string(out)
}

// digit is a digit of Punycode: a to z, 0 to 9.
func digit(n int) byte {
	if n < 26 {
		return byte('a' + n)
	}
	return byte('0' + n - 26)
}

// parseAddrs reads a folded address in all forms that some resolver accepts. Some read
// a part that starts with 0 as octal, others as decimal.
func parseAddrs(s string) []netip.Addr {
	s = strings.TrimSuffix(strings.Trim(s, "[]"), ".")
	if a, err := netip.ParseAddr(s); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}
	}
	var out []netip.Addr
	for _, zero := range []int{8, 10} {
		if a, ok := parseIPv4(s, zero); ok {
			out = append(out, a)
		}
	}
	return out
}

// parseIPv4 is inet_aton: one to four parts, in decimal, in hexadecimal with 0x or in
// base zero if they start with 0. The last part fills the rest.
func parseIPv4(s string, zero int) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		base := 10
		if digits, ok := strings.CutPrefix(p, "0x"); ok {
			p, base = digits, 16
		} else if len(p) > 1 && p[0] == '0' {
			base = zero
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		n, err := strconv.ParseUint(p, base, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		v = v<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// unescape decodes percent-encoding where it is well-formed.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i] == '%' {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

var unicodeEscape = regexp.MustCompile(`[\\%]u[0-9a-fA-F]{4}`)

// unescapeUnicode decodes \u0031 and %u0031.
func unescapeUnicode(s string) string {
	return unicodeEscape.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[2:], 16, 16)
		return string(rune(n))
	})
}

var (
	// Characters that are also in a base64 alphabet, such as the "/" of a path, may
	// surround a run of base64.
	runs = []*regexp.Regexp{
		regexp.MustCompile(`[A-Za-z0-9+/]{6,}`),
		regexp.MustCompile(`[A-Za-z0-9_-]{6,}`),
		regexp.MustCompile(`[A-Za-z0-9]{6,}`),
	}
	hexRun   = regexp.MustCompile(`(?:[0-9a-fA-F]{2}){4,}`)
	toStd    = strings.NewReplacer("-", "+", "_", "/")
	encoding = base64.RawStdEncoding
)

// decodeRuns adds everything that base64 and hexadecimal in s decode to.
func decodeRuns(s string, add func(string)) {
	for _, re := range runs {
		for _, run := range re.FindAllString(s, -1) {
			if len(run)%4 == 1 {
				run = run[:len(run)-1]
			}
			if p, err := encoding.DecodeString(toStd.Replace(run)); err == nil {
				add(text(p))
			}
		}
	}
	for _, run := range hexRun.FindAllString(s, -1) {
		if p, err := hex.DecodeString(run); err == nil {
			add(text(p))
		}
	}
}

// text replaces bytes that are not text by spaces: unencoded words decode to such
// bytes.
func text(p []byte) string {
	s := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return ' '
		}
		return r
	}, string(p))
	return strings.TrimSpace(s)
}
