//go:build interop

package interop

import "github.com/rtmp-forward/forward"

// The user and the password of the tests with authentication. A password with
// a character that ends the user's part of a URL is none that FFmpeg can send.
const user, password = "encoder", "p4ss+w=rd&%20"

// passwords is a Config.PublishAuth.
func passwords(name string) (forward.Secret, bool) { return password, name == user }
