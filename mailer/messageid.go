package mailer

import "strings"

// maxMessageID keeps a Message-ID far from the line limit, so that every
// program on the way can quote it.
const maxMessageID = 512

// isMessageID reports whether s may be the Message-ID of a message of ours: two
// dot-atoms around an "@", in angle brackets (RFC 5322, section 3.6.4).
func isMessageID(s string) bool {
	if !isReference(s) {
		return false
	}
	left, right, ok := strings.Cut(s[1:len(s)-1], "@")
	return ok && isPlainDotAtom(left) && isPlainDotAtom(right)
}

func isPlainDotAtom(s string) bool {
	for i := range len(s) {
		if s[i] != '.' && !isAtext(s[i]) {
			return false
		}
	}
	return isDotAtom(s)
}

// isReference reports whether s may name another message. Those ids were made
// by others, and threads break if odd ones are refused; all that counts is that
// they can stand in a header.
func isReference(s string) bool {
	if len(s) < len("<x>") || len(s) > maxMessageID || s[0] != '<' || s[len(s)-1] != '>' {
		return false
	}
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			return false
		}
	}
	return true
}

// splitReferences takes the value of an In-Reply-To or References field apart.
func splitReferences(s string) []string {
	return strings.FieldsFunc(s, isWSP)
}
