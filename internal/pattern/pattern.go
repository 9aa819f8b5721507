// Package pattern compiles the patterns for names of vhosts, apps and streams: globs, or
// regular expressions after "~".
package pattern

import (
	"regexp"
	"strings"
)

// Compile compiles a pattern to a regular expression that matches only a whole string.
// flags are those of package regexp/syntax. An empty pattern matches everything. In a glob
// "*" stands for any characters and "?" for one; both become groups.
func Compile(p, flags string) (*regexp.Regexp, error) {
	if p == "" {
		return regexp.MustCompile(``), nil
	}
	if re, ok := strings.CutPrefix(p, "~"); ok {
		if _, err := regexp.Compile(re); err != nil {
			return nil, err
		}
		return regexp.Compile(`\A(?` + flags + `:` + re + `)\z`)
	}
	return Glob(p, flags), nil
}

// Glob is Compile for a glob, which may be empty and may begin with "~".
func Glob(glob, flags string) *regexp.Regexp {
	var b strings.Builder
	for _, r := range glob {
		switch r {
		case '*':
			b.WriteString(`(.*)`)
		case '?':
			b.WriteString(`(.)`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return regexp.MustCompile(`(?s` + flags + `)\A` + b.String() + `\z`)
}
