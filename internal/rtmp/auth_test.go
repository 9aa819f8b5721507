package rtmp

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const reject = "[ AccessManager.Reject ] : [ "

// The responses were computed by another program.
func TestAuthorize(t *testing.T) {
	const nonce = "01020304"
	answered := "authmod=adobe&user=jo&challenge=0&response=x"
	odd := Options{App: "live", User: "a b&c=d?@e/f%+ü", Password: "p&w"}
	for _, c := range []struct {
		name, description string
		opt               Options
		want              string // empty: cannot be answered
	}{
		{"adobe, asked for the user", reject + "code=403 need auth; authmod=adobe ] : ", Options{}, "authmod=adobe&user=jo"},
		{"llnw, asked for the user", reject + "code=403 need auth; authmod=llnw ] : ", Options{}, "authmod=llnw&user=jo"},
		{"authmod in a bracket of its own", reject + "authmod=adobe ] : [ code=403 need auth ]", Options{}, "authmod=adobe&user=jo"},
		{"asked for the user again", reject + "code=403 need auth; authmod=adobe ] : ", Options{Auth: "authmod=adobe&user=jo"}, ""},

		{"adobe, opaque", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall&opaque=vbi2V==", Options{Auth: "authmod=adobe&user=jo"},
			"authmod=adobe&user=jo&challenge=01020304&response=eNc3fteWIiOd/SHt00pv3Q==&opaque=vbi2V=="},
		{"adobe, at once", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall&opaque=vbi2V== ", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=eNc3fteWIiOd/SHt00pv3Q==&opaque=vbi2V=="},
		{"adobe, challenge alone", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=aHRyra2+Xx0ukKnYDVu7tQ=="},
		{"adobe, nothing", reject + "authmod=adobe ] : ?reason=needauth", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=YfqVJ0NFm3GRyImzWChtAw=="},
		{"adobe, any user name", reject + "authmod=adobe ] : ?reason=needauth&user=a&salt=SaLt&opaque=op", odd,
			"authmod=adobe&user=a%20b%26c%3Dd%3F@e%2Ff%25%2Bü&challenge=01020304&response=jZPg3jk0rJhonaT7jluh3Q==&opaque=op"},
		{"adobe, asked again", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&opaque=op", Options{Auth: answered}, ""},
		{"adobe, failed", reject + "authmod=adobe ] : ?reason=authfailed&opaque=vbi2V==", Options{Auth: answered}, ""},
		{"adobe, no such user", reject + "authmod=adobe ] : ?reason=nosuchuser&opaque=vbi2V==", Options{Auth: answered}, ""},

		{"llnw, one level", reject + "authmod=llnw ] : ?reason=needauth&user=jo&nonce=N0nce", Options{},
			"authmod=llnw&user=jo&nonce=N0nce&cnonce=01020304&nc=00000001&response=9eef7e4dac6416da437df855569fc2e8"},
		{"llnw, two levels and a query", reject + "authmod=llnw ] : ?reason=needauth&user=jo&nonce=N0nce", Options{App: "live/more?x=1"},
			"authmod=llnw&user=jo&nonce=N0nce&cnonce=01020304&nc=00000001&response=d7a2ec462010edd29b789efebffb071c"},

		{"another method", reject + "authmod=red5 ] : ?reason=needauth&user=jo&challenge=x", Options{}, ""},
		{"no method", reject + "code=403 need auth ] : ", Options{}, ""},
		{"about something else", "No such app.", Options{}, ""},
		{"empty", "", Options{}, ""},
		{"no user to give", reject + "code=403 need auth; authmod=adobe ] : ", Options{User: "-"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch c.opt.User {
			case "":
				c.opt.User, c.opt.Password = "jo", "secret"
			case "-":
				c.opt.User = ""
			}
			if c.opt.App == "" {
				c.opt.App = "live"
			}
			got, ok := c.opt.authorize(c.description, nonce)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want != "", ok)
		})
	}
}

func TestAuthOfConnect(t *testing.T) {
	for _, c := range []struct{ in, app, auth string }{
		{"live", "live", "authmod=adobe&user=jo"},
		{"live?backup=1", "live?backup=1", "authmod=adobe&user=jo"},
		{"live", "live", ""},
		{"live?a=1", "live?a=1", ""},
	} {
		app, auth := CutAuth(withAuth(c.in, c.auth))
		require.Equal(t, c.app, app)
		require.Equal(t, c.auth, auth)
	}

	r := &record{}
	refusal := command(0, "_error", 1, nil, status("error", "NetConnection.Connect.Rejected",
		reject+"authmod=adobe ] : ?reason=needauth&user=jo.doe&salt=SaLt&opaque=0paque secret jo.doe"))
	err := client(r, Options{App: "live?a=1", TcURL: "rtmp://h/live?a=1", User: "jo.doe", Password: "secret", Auth: "authmod=adobe&user=jo.doe"}, refusal).Publish()
	var required *AuthRequired
	require.ErrorAs(t, err, &required)
	require.Contains(t, required.Auth, "&response=")
	require.Equal(t, "NetConnection.Connect.Rejected", required.Refused.Code)
	for _, secret := range []string{"jo.doe", "secret"} {
		require.NotContains(t, err.Error(), secret)
	}
	// Without a user it is a refusal as any other.
	err = client(&record{}, Options{}, refusal).Publish()
	require.False(t, errors.As(err, &required))
	var st *StatusError
	require.ErrorAs(t, err, &st)
}

// ask takes a client through all that an Authenticator wants, with as many
// connections as that takes.
func ask(a *Authenticator, o Options, nonce string) (user string, connections int, err error) {
	for connections = 1; ; connections++ {
		user, err = a.Check(o.Auth)
		var st *StatusError
		if !errors.As(err, &st) {
			return user, connections, err
		}
		auth, ok := o.authorize(st.Description, nonce)
		if !ok {
			return user, connections, err
		}
		o.Auth = auth
	}
}

func TestAuthenticator(t *testing.T) {
	users := map[string]string{"jo": "secret", "a b&c=d?@e/f%+ü": "p&w", "empty": "", "%zz": "x"}
	a := NewAuthenticator(func(user string) (string, bool) { p, ok := users[user]; return p, ok })
	for user, password := range users {
		got, n, err := ask(a, Options{User: user, Password: password}, newNonce())
		require.NoError(t, err, user)
		require.Equal(t, user, got)
		require.Equal(t, 3, n)

		got, n, err = ask(a, Options{User: user, Password: password + "x"}, newNonce())
		require.EqualError(t, err, "connect refused: wrong user or password")
		require.Empty(t, got)
		require.Equal(t, 3, n)
	}
	_, n, err := ask(a, Options{User: "nobody"}, newNonce())
	require.EqualError(t, err, "connect refused: wrong user or password", "as with a wrong password")
	require.Equal(t, 3, n)
}

// Some send the user's name as it is and hash what the server repeats.
func TestAuthenticatorTakesTheNameAsSent(t *testing.T) {
	a := NewAuthenticator(func(user string) (string, bool) { return "pw", user == "a+b c" })
	_, err := a.Check("authmod=adobe&user=a+b%20c")
	var st *StatusError
	require.ErrorAs(t, err, &st)
	_, params, _ := strings.Cut(st.Description, needAnswer)
	q := parseAuth(params)
	require.Equal(t, "a+b%20c", q["user"])
	user, err := a.Check("authmod=adobe&user=a+b%20c&challenge=c&response=" +
		adobeResponse(q["user"], "pw", q["salt"], q["challenge"], "c") + "&opaque=" + q["opaque"])
	require.NoError(t, err)
	require.Equal(t, "a+b c", user)
}

func TestAuthenticatorChallenges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := func(string) (string, bool) { return "secret", true }
		a := NewAuthenticator(known)
		good := func(user, opaque string) string {
			return "authmod=adobe&user=" + user + "&challenge=1&response=" + adobeResponse(user, "secret", salt(opaque), opaque, "1") + "&opaque=" + opaque
		}
		opaque := a.opaque("jo", time.Now(), nil)
		_, err := a.Check(good("jo", opaque))
		require.NoError(t, err)
		for name, auth := range map[string]string{
			"of another user":   good("al", opaque),
			"of another server": good("jo", NewAuthenticator(known).opaque("jo", time.Now(), nil)),
			"of the future":     good("jo", a.opaque("jo", time.Now().Add(time.Hour), nil)),
			"changed":           good("jo", a.opaque("jo", time.Now(), []byte("abcd"))[:16]+opaque[16:]),
			"longer":            good("jo", opaque+"AAAA"),
			"none":              "authmod=adobe&user=jo&challenge=1&response=x",
			"another method":    "authmod=llnw&user=jo&response=x",
			"no user":           "authmod=adobe&user=&response=x",
			"nothing":           "",
		} {
			_, err := a.Check(auth)
			require.Error(t, err, name)
		}
		time.Sleep(authLife - time.Second)
		_, err = a.Check(good("jo", opaque))
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		_, err = a.Check(good("jo", opaque))
		require.Error(t, err, "too late")
	})
}

// What a client claims is never taken for what it could have computed only
// with the password.
func FuzzAuthenticator(f *testing.F) {
	f.Add("authmod=adobe&user=jo&challenge=1&response=2&opaque=3")
	f.Add("authmod=adobe&user=%6a%zz&response=%")
	a := NewAuthenticator(func(string) (string, bool) { return "a password nobody has", true })
	f.Fuzz(func(t *testing.T, auth string) {
		_, err := a.Check(auth)
		var st *StatusError
		require.ErrorAs(t, err, &st)
		require.True(t, strings.HasPrefix(st.Description, reject))
		(&Options{User: "jo"}).authorize(auth, "n")
	})
}
