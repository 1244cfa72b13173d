//! Shared libraries, opened by name or path, and the functions looked up in them.
//!
//! Enters: a path and a list of functions. Leaves: a struct of function pointers. A library
//! stays loaded until the process ends, so that pointers into it are always good: NVIDIA's
//! keep threads and exit handlers of their own. Never: an error that ends the process.

use std::ffi::{OsStr, c_int};

/// Where the code of an opened library lies. Copies stay good as long as the process.
pub(crate) struct Library {
    open: std::mem::ManuallyDrop<libloading::Library>,
}

impl Library {
    /// Opens a library; the error is the loader's words.
    pub(crate) fn open(path: &OsStr) -> Result<Library, String> {
        // SAFETY: opening runs the library's initialisers. The names are those of NVIDIA's
        // libraries, or were given by the user in an environment variable.
        let opened = unsafe { libloading::Library::new(path) };
        let open = opened.map_err(|error| {
            let words = error.to_string();
            // The loader begins with the name, which our own message has as well.
            let name = format!("{}: ", path.to_string_lossy());
            words.strip_prefix(&name).unwrap_or(&words).to_owned()
        })?;
        Ok(Library {
            open: std::mem::ManuallyDrop::new(open),
        })
    }

    /// The function called `symbol`, which ends in a NUL.
    ///
    /// # Safety
    ///
    /// `F` is a function pointer of the type that the library's header gives `symbol`.
    pub(crate) unsafe fn function<F: Copy>(&self, symbol: &'static [u8]) -> Option<F> {
        // SAFETY: the caller answers for the type; the library is never closed, so a copy of
        // the pointer stays good.
        unsafe { self.open.get::<F>(symbol) }
            .ok()
            .map(|found| *found)
    }
}

/// The functions of one library: a struct with a field for each, all of which return a status.
macro_rules! functions {
    ($(#[$meta:meta])* struct $name:ident {
        $($field:ident = $symbol:literal : fn($($kind:ty),* $(,)?);)*
    }) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $(pub(crate) $field: unsafe extern "C" fn($($kind),*) -> std::ffi::c_int,)*
        }

        impl $name {
            /// Looks all of them up, or names the first that is missing.
            pub(crate) fn of(library: &$crate::library::Library) -> Result<$name, &'static str> {
                Ok($name {
                    $($field: {
                        let symbol = concat!($symbol, "\0").as_bytes();
                        // SAFETY: the type is the one that the library's header declares, as
                        // the table says that names this file.
                        unsafe { library.function(symbol) }.ok_or($symbol)?
                    },)*
                })
            }
        }
    };
}
pub(crate) use functions;

/// `CUDA_SUCCESS` and `NVJPEG_STATUS_SUCCESS`: all went well.
pub(crate) const SUCCESS: c_int = 0;

#[cfg(test)]
mod tests {
    use super::*;

    functions! {
        struct Present {
            getpid = "getpid": fn();
        }
    }

    functions! {
        #[expect(dead_code, reason = "it can't be made")]
        struct Libc {
            getpid = "getpid": fn();
            absent = "loaderd_absent": fn(c_int);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let libc = Library::open("libc.so.6".as_ref()).unwrap();
        assert_eq!(Libc::of(&libc).err(), Some("loaderd_absent"));
        let of_libc = Present::of(&libc).unwrap();
        // SAFETY: getpid takes nothing and always succeeds.
        assert_eq!(unsafe { (of_libc.getpid)() } as u32, std::process::id());
        let error = Library::open("libloaderd-absent.so".as_ref())
            .err()
            .unwrap();
        assert!(
            error.starts_with("cannot open shared object file"),
            "{error}"
        );
    }
}
